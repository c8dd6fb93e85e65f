//! Who listens where: `[admin]`, `[console]`, and that no two want the same address.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;
use toml::de::DeValue;

use crate::proxy::{Admin, Console};
use crate::read::{At, Findings, Read, Section};
use crate::report::Problem;

pub(super) fn admin(found: &mut Findings, file: &mut Section<'_>, sockets: &mut Sockets) -> Admin {
    let default = Admin::default();
    let Some(mut s) = file.section(found, "admin") else {
        sockets.claim_default(found, default.address);
        return default;
    };
    let address = s.at::<SocketAddr>(found, "address");
    let token = s.at::<crate::Secret>(found, "token");
    s.finish(found);
    if let Some(token) = &token
        && token.value.expose().is_empty()
    {
        found.error(Problem::new("`token` is empty").at(token.span.clone()));
    }
    match &address {
        Some(address) => {
            if !address.value.ip().is_loopback() && token.is_none() {
                found.error(
                    Problem::new(
                        "off loopback, [admin] needs a token: whoever reaches it can drain servers",
                    )
                    .at(address.span.clone())
                    .help(
                        "add token = { file = \"/etc/pointsman/token\" }, or listen on 127.0.0.1",
                    ),
                );
            }
            sockets.take(found, address, "[admin]");
        }
        None => sockets.claim_default(found, default.address),
    }
    Admin { address: address.map_or(default.address, |a| a.value), token: token.map(|t| t.value) }
}

/// `""` turns the console off, so this is not simply an address.
struct ConsoleAddress(Option<SocketAddr>);

impl Read for ConsoleAddress {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        if matches!(value.get_ref(), DeValue::String(s) if s.is_empty()) {
            return Some(Self(None));
        }
        SocketAddr::read(found, value, key).map(|a| Self(Some(a)))
    }
}

pub(super) fn console(
    found: &mut Findings,
    file: &mut Section<'_>,
    sockets: &mut Sockets,
) -> Console {
    let default = Console::default();
    let written = file.section(found, "console").and_then(|mut s| {
        let address = s.at::<ConsoleAddress>(found, "address");
        s.finish(found);
        address
    });
    let Some(At { value: ConsoleAddress(address), span }) = written else {
        // Taken silently only if free: a listener on 8990 is no reason to refuse the file.
        let free = default.address.filter(|a| sockets.owner(*a).is_none());
        return Console { address: free };
    };
    if let Some(address) = address {
        let at = At { value: address, span };
        if !address.ip().is_loopback() {
            found.error(
                Problem::new("the SQL console listens on loopback only: it has no TLS")
                    .at(at.span.clone())
                    .help("use 127.0.0.1, and the HTTP API from other hosts"),
            );
        }
        sockets.take(found, &at, "[console]");
    }
    Console { address }
}

/// Who listens where.
#[derive(Default)]
pub(super) struct Sockets(Vec<(SocketAddr, &'static str)>);

impl Sockets {
    /// Two sockets clash on the same port if their addresses are equal or one is all addresses.
    fn owner(&self, address: SocketAddr) -> Option<&'static str> {
        let clash = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
        self.0
            .iter()
            .find(|(taken, _)| {
                address.port() != 0
                    && taken.port() == address.port()
                    && clash(taken.ip(), address.ip())
            })
            .map(|(_, owner)| *owner)
    }

    /// `[admin]` listens whether it is written or not.
    fn claim_default(&mut self, found: &mut Findings, admin: SocketAddr) {
        if let Some(other) = self.owner(admin) {
            found.error(
                Problem::new(format!("[admin] would listen on {admin}, which {other} has taken"))
                    .help("add:  [admin]\n      address = \"127.0.0.1:8988\"   # any free port"),
            );
        }
        self.0.push((admin, "[admin]"));
    }

    pub(super) fn take(
        &mut self,
        found: &mut Findings,
        address: &At<SocketAddr>,
        owner: &'static str,
    ) {
        if let Some(other) = self.owner(address.value) {
            found.error(
                Problem::new(format!("{} is taken: {other} listens there", address.value))
                    .at(address.span.clone())
                    .help(
                        "give each its own port (0.0.0.0 and [::] are all addresses of this host)",
                    ),
            );
        }
        self.0.push((address.value, owner));
    }
}
