//! What a virtual router may be, why, and what it asks of its caller.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not started yet.
    Initialize,
    Backup,
    /// Holds the addresses. "Master" in RFC 3768 and in keepalived.
    Active,
    /// Was active, is stopping, still holds the addresses for a successor to take.
    Leaving,
    /// Can't take part: see [`Fault`].
    Fault,
    Stopped,
}

impl State {
    /// Whether the addresses are on the interface in this state.
    #[must_use]
    pub fn holds_addresses(self) -> bool {
        matches!(self, Self::Active | Self::Leaving)
    }

    /// keepalived's word for it, as notify scripts get it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initialize => "INIT",
            Self::Backup => "BACKUP",
            Self::Active => "MASTER",
            Self::Leaving | Self::Stopped => "STOP",
            Self::Fault => "FAULT",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What keeps a virtual router from taking part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fault {
    /// The interface is down or gone.
    Interface = 1,
    /// No address to send adverts from.
    NoSource = 2,
    /// A tracked script, process, file or interface without a weight has failed.
    Tracking = 4,
    /// Another member of the sync group is in fault.
    Group = 8,
}

/// Why a state was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Started,
    /// The process before it was active, and it goes on in its place.
    Restarted,
    /// No advert for the master-down interval.
    HeardNobody,
    /// The active router sent priority 0.
    PeerStopped,
    /// A router of higher priority, or of equal priority and higher address, is active.
    Superior {
        priority: u8,
        src: IpAddr,
    },
    /// This process did not run for so long that another must be assumed active.
    WasFrozen(Duration),
    Fault(Fault),
    Recovered,
    Stopping,
    /// While leaving: this router advertises now.
    PeerTookOver(IpAddr),
    /// While leaving: nobody took over in time.
    NobodyTookOver,
    /// In step with the sync group.
    Group,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Restarted => f.write_str("restarted in place"),
            Self::HeardNobody => f.write_str("no active router was heard"),
            Self::PeerStopped => f.write_str("the active router stopped"),
            Self::Superior { priority, src } => {
                write!(f, "{src} is active with priority {priority}")
            }
            Self::WasFrozen(d) => write!(f, "this process did not run for {d:?}"),
            Self::Fault(Fault::Interface) => f.write_str("the interface is down"),
            Self::Fault(Fault::NoSource) => f.write_str("the interface has no address"),
            Self::Fault(Fault::Tracking) => f.write_str("something tracked has failed"),
            Self::Fault(Fault::Group) => f.write_str("another member of the sync group failed"),
            Self::Recovered => f.write_str("the fault is gone"),
            Self::Stopping => f.write_str("stopping"),
            Self::PeerTookOver(src) => write!(f, "{src} took over"),
            Self::NobodyTookOver => f.write_str("nobody took over"),
            Self::Group => f.write_str("in step with the sync group"),
        }
    }
}

/// What the caller must do, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Put the virtual addresses on the interface.
    AddAddresses,
    /// Take them off.
    RemoveAddresses,
    /// Send an advert of this priority: [`Router::encode_advert`] to each destination.
    SendAdvert { priority: u8 },
    /// Gratuitous ARP or unsolicited neighbour advertisement for every address, so many times.
    Announce { repeat: u8 },
    /// The state changed: log it, count it, run notify scripts.
    Transition { from: State, to: State, reason: Reason },
    /// The active router advertises other addresses than we have. Said once per router.
    AddressesDiffer { src: IpAddr },
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub src: IpAddr,
    /// Where it was sent to: part of the checksum in version 3.
    pub dst: IpAddr,
    /// TTL or hop limit as received.
    pub ttl: u8,
}
