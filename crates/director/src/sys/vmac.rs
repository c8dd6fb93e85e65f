//! Interfaces with a virtual router's own MAC (`use_vmac`): macvlan in private mode on the
//! interface, and settings that keep the two from answering ARP for each other, as keepalived 2.2.7
//! makes them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::link::{Links, add_macvlan, delete_link, set_link_up};
use super::netlink::Socket;
use crate::config::VrrpInstance;

/// RFC 9568 section 7.3: 00-00-5E-00-01-VRID for IPv4, -02- for IPv6.
pub(crate) fn mac(vrid: u8, ipv6: bool) -> [u8; 6] {
    [0, 0, 0x5e, 0, if ipv6 { 2 } else { 1 }, vrid]
}

/// Answer ARP for an interface's own addresses only, and ask with its own address only: the virtual
/// address of the macvlan must not be told of with the MAC of the interface below.
const BELOW: [(&str, &str); 2] = [("arp_ignore", "1"), ("arp_announce", "2")];
/// The interface's own broadcasts come back to it through the macvlan.
const ABOVE: [(&str, &str); 5] = [
    ("arp_ignore", "1"),
    ("arp_filter", "0"),
    ("accept_local", "1"),
    ("rp_filter", "0"),
    ("promote_secondaries", "1"),
];

/// Those of this daemon; they end with it.
#[derive(Default)]
pub(crate) struct Vmacs {
    made: BTreeMap<String, u32>,
    /// Settings of interfaces below, and what they were.
    former: BTreeMap<PathBuf, String>,
}

impl Vmacs {
    /// Makes the interface of an instance, if it wants one and there is none yet. Whether that was
    /// so.
    pub fn ensure(
        &mut self,
        instance: &VrrpInstance,
        links: &Links,
        socket: &mut Socket,
    ) -> io::Result<bool> {
        let Some(name) = instance.vmac() else { return Ok(false) };
        let Some((below, _)) = links.by_name(&instance.interface) else { return Ok(false) };
        let ipv6 = instance.is_ipv6();
        let mac = mac(instance.virtual_router_id, ipv6);
        let there = links.by_name(&name).map(|(index, link)| (index, link.mac == mac));
        let new = match there {
            // Of a run that was killed, or made by hand: taken over.
            Some((index, true)) if self.made.insert(name.clone(), index).is_some() => {
                return Ok(false);
            }
            Some((_, true)) => false,
            Some((_, false)) => {
                return Err(io::Error::other(format!("there is an interface {name} of others")));
            }
            None => {
                match add_macvlan(socket, &name, below, mac) {
                    // News of it are on their way.
                    Err(e)
                        if e.raw_os_error() == Some(libc::EEXIST)
                            && self.made.contains_key(&name) =>
                    {
                        return Ok(false);
                    }
                    other => other?,
                }
                true
            }
        };
        let conf = |name: &str| Path::new("/proc/sys/net/ipv4/conf").join(name);
        for (key, value) in BELOW {
            self.set(&conf(&instance.interface).join(key), value, true);
        }
        for (key, value) in ABOVE {
            self.set(&conf(&name).join(key), value, false);
        }
        // Its own link-local address would be the same on every router.
        let six = Path::new("/proc/sys/net/ipv6/conf").join(&name);
        if ipv6 {
            self.set(&six.join("addr_gen_mode"), "1", false);
            self.set(&six.join("accept_ra"), "0", false);
        } else {
            self.set(&six.join("disable_ipv6"), "1", false);
        }
        let index = set_link_up(socket, &name)?;
        self.made.insert(name, index);
        Ok(new)
    }

    /// What can't be set is told, and lived with: not every kernel has everything.
    fn set(&mut self, path: &Path, value: &str, restore: bool) {
        let Ok(before) = std::fs::read_to_string(path) else { return };
        let before = before.trim().to_owned();
        // A stricter value than ours stays.
        if before == value || (restore && before.as_str() > value) {
            return;
        }
        match std::fs::write(path, value) {
            Ok(()) if restore => drop(self.former.entry(path.to_owned()).or_insert(before)),
            Ok(()) => {}
            Err(error) => tracing::warn!("{} can't be set: {error}", path.display()),
        }
    }
}

impl Drop for Vmacs {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        if let Ok(mut socket) = Socket::route() {
            for (name, index) in &self.made {
                if let Err(error) = delete_link(&mut socket, *index) {
                    tracing::debug!("removing {name}: {error}");
                }
            }
        }
        for (path, before) in &self.former {
            let _ = std::fs::write(path, before);
        }
    }
}
