//! MySQL/MariaDB client-server protocol: framing, handshake, authentication, result tracking. Pure: no sockets, no clock.
