//! The front tier: VRRP shell, health checks, schedulers and data planes.

pub mod config;
