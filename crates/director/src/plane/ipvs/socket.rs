//! The way to the kernel's IPVS.

use std::io;
use std::process::{Command as Program, Stdio};

use super::message::{
    self, Command, Counts, Destination, FAMILY, GET_DEST, GET_SERVICE, Service, VERSION,
};
use super::plan::Table;
use crate::plane::Takes;
use crate::sys::netlink::{Message, Received, Socket, attributes};

// linux/genetlink.h
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// struct genlmsghdr
const HEADER: usize = 4;

pub(crate) struct Ipvs {
    socket: Socket,
    /// The number this kernel gave to IPVS.
    family: u16,
}

impl Ipvs {
    /// Loads the module if need be.
    ///
    /// # Errors
    /// `NotFound`: this kernel has none.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::generic()?;
        let family = match find(&mut socket)? {
            Some(family) => family,
            None => {
                let status = Program::new("modprobe")
                    .args(["-q", "ip_vs"])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                tracing::debug!("modprobe ip_vs: {status:?}");
                find(&mut socket)?.ok_or_else(|| {
                    let text = "this kernel has no IPVS (its module ip_vs can't be loaded)";
                    io::Error::new(io::ErrorKind::NotFound, text)
                })?
            }
        };
        Ok(Self { socket, family })
    }

    pub fn change(&mut self, command: &Command) -> io::Result<()> {
        let (number, bytes) = command.encode();
        self.socket.request(self.message(number, &bytes))
    }

    /// Everything there is.
    pub fn tables(&mut self) -> io::Result<Vec<Table>> {
        let mut services = Vec::new();
        self.socket.dump(self.message(GET_SERVICE, &[]), |m| {
            services.extend(body(&m).and_then(Service::decode));
        })?;
        let mut tables = Vec::new();
        for service in services {
            // One that somebody removed meanwhile has none.
            let all = self.destinations(service.takes)?;
            let destinations = all.into_iter().map(|(d, _)| d).collect();
            tables.push(Table { service, destinations });
        }
        Ok(tables)
    }

    /// The real servers of a service. None if there is no such service.
    pub fn destinations(&mut self, takes: Takes) -> io::Result<Vec<(Destination, Counts)>> {
        let mut all = Vec::new();
        self.socket.dump(self.message(GET_DEST, &message::select(takes)), |m| {
            all.extend(body(&m).and_then(|b| Destination::decode(b, takes.is_ipv6())));
        })?;
        Ok(all)
    }

    fn message(&self, command: u8, attributes: &[u8]) -> Message {
        Message::new(self.family, 0).body(&[command, VERSION, 0, 0]).body(attributes)
    }
}

/// IPVS's number; `None` if it is not there (yet).
fn find(socket: &mut Socket) -> io::Result<Option<u16>> {
    let name = [FAMILY.as_bytes(), &[0]].concat();
    let request =
        Message::new(CONTROL, 0).body(&[GET_FAMILY, 1, 0, 0]).attribute(FAMILY_NAME, &name);
    let mut found = None;
    let result = socket.query(request, |m| {
        found = attributes(m.body, HEADER)
            .find(|(kind, _)| *kind == FAMILY_ID)
            .and_then(|(_, value)| value.first_chunk().map(|v| u16::from_ne_bytes(*v)));
    });
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
        Ok(()) => Ok(found),
    }
}

/// What follows the command.
fn body<'a>(message: &Received<'a>) -> Option<&'a [u8]> {
    message.body.get(HEADER..)
}
