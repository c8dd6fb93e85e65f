//! One client's session: transaction, session state, pins, and where the next statement goes. Pure: no sockets, no clock.
