//! VRRP versions 2 and 3: packets and state machine. Pure: no sockets, no clock.
