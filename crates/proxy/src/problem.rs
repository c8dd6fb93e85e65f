//! Errors that the proxy itself gives to clients.

use pointsman_wire::{err_packet, write_packet};

/// An error for the client.
pub enum Problem {
    Own {
        code: u16,
        state: &'static str,
        message: String,
    },
    /// The server's own ERR payload.
    Server(Vec<u8>),
}

impl Problem {
    pub fn packet(&self, out: &mut Vec<u8>, seq: u8) {
        match self {
            Self::Own { code, state, message } => {
                err_packet(out, seq, *code, state, message);
            }
            Self::Server(payload) => {
                write_packet(out, seq, payload);
            }
        }
    }

    pub fn own(code: u16, state: &'static str, message: impl Into<String>) -> Self {
        Self::Own { code, state, message: message.into() }
    }
}

/// The session can't go on as if nothing had happened: it ends, as a server would end it.
pub fn session_lost(what: &str) -> Problem {
    let message = format!("[PM2004] the connection to the server was lost, and with it {what}");
    Problem::own(2013, "HY000", message)
}

pub fn answers_gone() -> Problem {
    let message = "[PM2012] the connection that ran the last statement is gone, and with it the answer \
                   to this: its server died, or it went to another session since `max_connections` in \
                   [pool] is short of what is needed";
    Problem::own(1105, "HY000", message)
}

pub fn read_only() -> Problem {
    let message = "[PM2001] there is no primary to write to: the server became read-only";
    Problem::own(1290, "HY000", message)
}
