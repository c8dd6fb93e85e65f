//! What a packet costs: the program run by the kernel on packets of our own (BPF_PROG_TEST_RUN),
//! which counts the program alone, without driver and without finding the neighbour.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::ebpf::{EbpfPlane, Options};
use super::layout::{LinkValue, REAL_MAC, REAL_USABLE, RealValue};
use super::program::other;
use super::{DataPlane, Persistence, Service, Takes, Target};
use crate::config::{Forwarding, HashOptions, Protocol, Scheduler};

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Cost {
    pub what: String,
    /// `tc` or `xdp`
    pub hook: &'static str,
    pub time: Duration,
    /// Runs behind the average.
    pub runs: u32,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The same packet is run again and again, each time with a TTL one less than before: so many can
/// go before it is used up.
const BATCH: u32 = 200;
/// The median of so many batches stands in the table. Each takes a while on XDP, where the kernel
/// waits for a grace period.
const BATCHES: u32 = 200;
const NEW_FLOWS: u16 = 20_000;

/// Measures. Attaches to nothing, but should run in a network namespace of its own.
///
/// # Errors
/// The kernel's, if it does not load or run the program.
pub fn measure() -> io::Result<Vec<Cost>> {
    let mut costs = Vec::new();
    {
        let mut plane = EbpfPlane::load(&Options::default())?;
        plane.program.named("nothing")?.load().map_err(other)?;
        let packet = tcp(ip("10.0.0.9"), ip("10.0.0.7"), 5000, ACK);
        let mut times = Vec::new();
        for _ in 0..BATCHES {
            times.push(plane.program.measure("nothing", &packet, BATCH)?);
        }
        let what = "a program that does nothing (in all below)".to_owned();
        costs.push(Cost { what, hook: "tc", time: median(times), runs: BATCH * BATCHES });
    }
    for (scheduler, persistence) in [
        (Scheduler::Rr, None),
        (Scheduler::Mh, None),
        (Scheduler::Wlc, None),
        (Scheduler::Rr, Some(Persistence { timeout: Duration::from_secs(60), prefix: 32 })),
    ] {
        let mut plane = EbpfPlane::load(&Options::default())?;
        plane.program.xdp()?.load().map_err(other)?;
        plane.apply(&[service("10.0.0.253:80", scheduler, persistence)])?;
        let name = scheduler.name();
        let sticky = if persistence.is_some() { ", persistent" } else { "" };
        costs.push(new_flows(&mut plane, format!("new IPv4 flow, {name}, 16 servers{sticky}"))?);
        if scheduler != Scheduler::Rr || persistence.is_some() {
            continue;
        }
        plane.apply(&[
            service("10.0.0.253:80", scheduler, None),
            service("[fd00::253]:80", scheduler, None),
        ])?;
        know_macs(&plane)?;
        for (what, client, vip) in [
            ("established IPv4 flow", "10.0.0.9", "10.0.0.253"),
            ("established IPv6 flow", "fd00::9", "fd00::253"),
            ("IPv4 packet that is none of ours", "10.0.0.9", "10.0.0.7"),
        ] {
            let (client, vip) = (ip(client), ip(vip));
            run(&mut plane, "tc", &tcp(client, vip, 5000, SYN), 1)?;
            run(&mut plane, "tc", &tcp(client, vip, 5000, ACK), 1)?;
            for hook in ["tc", "xdp"] {
                let packet = tcp(client, vip, 5000, ACK);
                let mut times = Vec::new();
                for _ in 0..BATCHES {
                    times.push(run(&mut plane, hook, &packet, BATCH)?);
                }
                let (time, runs) = (median(times), BATCH * BATCHES);
                costs.push(Cost { what: what.to_owned(), hook, time, runs });
            }
        }
    }
    Ok(costs)
}

fn new_flows(plane: &mut EbpfPlane, what: String) -> io::Result<Cost> {
    let (client, vip) = (ip("10.0.0.9"), ip("10.0.0.253"));
    let mut times = Vec::new();
    for port in 0..NEW_FLOWS {
        times.push(run(plane, "tc", &tcp(client, vip, 10_000 + port, SYN), 1)?);
    }
    Ok(Cost { what, hook: "tc", time: median(times), runs: u32::from(NEW_FLOWS) })
}

/// Not the average, which interrupts would spoil.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// XDP's test device is lo, and it sends by itself only to those whose MAC is known.
fn know_macs(plane: &EbpfPlane) -> io::Result<()> {
    let tables = &plane.program.tables;
    tables.links.set(&1, &LinkValue::default())?;
    for index in 0..64 {
        if let Some(real) = tables.reals.get(&index)?
            && real.flags & REAL_USABLE != 0
        {
            tables.reals.set(&index, &RealValue { flags: real.flags | REAL_MAC, ..real })?;
        }
    }
    Ok(())
}

fn run(plane: &mut EbpfPlane, hook: &str, packet: &[u8], repeat: u32) -> io::Result<Duration> {
    let name = if hook == "tc" { "direct_routing" } else { "direct_routing_xdp" };
    plane.program.measure(name, packet, repeat)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

fn service(vip: &str, scheduler: Scheduler, persistence: Option<Persistence>) -> Service {
    let vip: SocketAddr = vip.parse().unwrap_or(([0, 0, 0, 0], 0).into());
    let target = |i: u8| {
        let ip = if vip.is_ipv6() { ip(&format!("fd00::1:{i}")) } else { [10, 0, 1, i].into() };
        let address = SocketAddr::new(ip, 80);
        Target { address, forwarding: Forwarding::Dr, weight: 1, upper: 0, lower: 0 }
    };
    Service {
        takes: Takes::Address { vip, protocol: Protocol::Tcp },
        scheduler,
        hash: HashOptions::default(),
        persistence,
        one_packet: false,
        targets: (1..=16).map(target).collect(),
    }
}

/// A TCP packet to port 80 in an Ethernet frame for the test device, whose MAC is zero.
fn tcp(client: IpAddr, vip: IpAddr, port: u16, flags: u8) -> Vec<u8> {
    let mut packet = vec![0; 12];
    match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            packet.extend_from_slice(&[8, 0]);
            packet.extend_from_slice(&[0x45, 0, 0, 40, 0, 1, 0x40, 0, 255, 6, 0, 0]);
            packet.extend_from_slice(&client.octets());
            packet.extend_from_slice(&vip.octets());
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            packet.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 255]);
            packet.extend_from_slice(&client.octets());
            packet.extend_from_slice(&vip.octets());
        }
        _ => {}
    }
    packet.extend_from_slice(&port.to_be_bytes());
    packet.extend_from_slice(&80u16.to_be_bytes());
    packet.extend_from_slice(&[0; 8]);
    packet.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}
