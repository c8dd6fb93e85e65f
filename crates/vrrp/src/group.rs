//! All virtual routers of one machine, with sync groups kept in step.
//!
//! A group's members are active together or not at all:
//! - a fault of one is a fault of all;
//! - one that must become backup takes the others with it;
//! - they take over only when *every* member has heard nobody for its master-down interval. A
//!   router that still hears a superior one in another subnet would be sent back at once; waiting
//!   for all keeps a half-cut link from making the group flap.

use crate::Time;
use crate::error::DropReason;
use crate::machine::{Action, Received, Router, State};

/// Index of a router in a [`Node`], in the order added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouterId(pub usize);

/// The virtual routers of one machine.
#[derive(Debug, Default)]
pub struct Node {
    routers: Vec<Router>,
    groups: Vec<Vec<RouterId>>,
}

impl Node {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, router: Router) -> RouterId {
        self.routers.push(router);
        RouterId(self.routers.len() - 1)
    }

    /// Keeps `members` in step. A router belongs to one group at most.
    pub fn add_group(&mut self, members: Vec<RouterId>) {
        for &RouterId(i) in &members {
            self.routers[i].set_grouped(true, Time::ZERO);
        }
        self.groups.push(members);
    }

    /// Other groups from now on; each router's state stays as it is.
    pub fn set_groups(&mut self, groups: Vec<Vec<RouterId>>, now: Time) {
        for (i, router) in self.routers.iter_mut().enumerate() {
            let grouped = groups.iter().any(|g| g.contains(&RouterId(i)));
            router.set_grouped(grouped, now);
        }
        self.groups = groups;
        self.keep_in_step(now);
    }

    #[must_use]
    pub fn router(&self, id: RouterId) -> &Router {
        &self.routers[id.0]
    }

    pub fn routers(&self) -> impl ExactSizeIterator<Item = (RouterId, &Router)> {
        self.routers.iter().enumerate().map(|(i, r)| (RouterId(i), r))
    }

    /// The earliest time at which any router wants [`Node::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.routers.iter().filter_map(Router::poll_timeout).min()
    }

    /// The next thing to do. A router's actions come in its order.
    pub fn poll_action(&mut self) -> Option<(RouterId, Action)> {
        self.routers
            .iter_mut()
            .enumerate()
            .find_map(|(i, router)| router.poll_action().map(|action| (RouterId(i), action)))
    }

    pub fn handle_timeout(&mut self, now: Time) {
        for router in &mut self.routers {
            router.handle_timeout(now);
        }
        self.keep_in_step(now);
    }

    /// # Errors
    /// As [`Router::handle_advert`].
    pub fn handle_advert(
        &mut self,
        id: RouterId,
        bytes: &[u8],
        from: Received,
        now: Time,
    ) -> Result<(), DropReason> {
        let result = self.routers[id.0].handle_advert(bytes, from, now);
        self.keep_in_step(now);
        result
    }

    /// Any other input to one router.
    pub fn with<T>(
        &mut self,
        id: RouterId,
        now: Time,
        input: impl FnOnce(&mut Router, Time) -> T,
    ) -> T {
        let result = input(&mut self.routers[id.0], now);
        self.keep_in_step(now);
        result
    }

    /// A planned stop of them all. Done when [`Node::is_stopped`].
    pub fn handle_stop(&mut self, now: Time) {
        for router in &mut self.routers {
            router.handle_stop(now);
        }
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.routers.iter().all(|r| r.state() == State::Stopped)
    }

    fn keep_in_step(&mut self, now: Time) {
        let Self { routers, groups } = self;
        for members in groups {
            let any_fault = members.iter().any(|m| routers[m.0].has_own_fault());
            for &RouterId(i) in members.iter() {
                let others_fault = any_fault && !routers[i].has_own_fault();
                routers[i].handle_group_fault(others_fault, now);
            }
            let all = |routers: &[Router], test: fn(&Router) -> bool| {
                members.iter().all(|m| test(&routers[m.0]))
            };
            if all(routers, |r| r.is_ready() || r.state() == State::Active) {
                for &RouterId(i) in members.iter() {
                    routers[i].handle_group_active(now);
                }
            } else if !all(routers, |r| r.state() == State::Active) {
                for &RouterId(i) in members.iter() {
                    routers[i].handle_group_backup(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, Reason, RouterConfig, Version};
    use std::net::IpAddr;
    use std::time::Duration;

    const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn ms(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    fn pair() -> (Node, RouterId, RouterId) {
        let mut node = Node::new();
        let add = |node: &mut Node, vrid| {
            let config = RouterConfig::new(vrid, Version::V3, 100);
            node.add(Router::new(config, ms(0)).unwrap())
        };
        let (a, b) = (add(&mut node, 1), add(&mut node, 2));
        node.add_group(vec![a, b]);
        for id in [a, b] {
            node.with(id, ms(0), |r, now| r.handle_interface(true, Some(OURS), now));
        }
        drain(&mut node);
        (node, a, b)
    }

    fn drain(node: &mut Node) -> Vec<(RouterId, Action)> {
        std::iter::from_fn(|| node.poll_action()).collect()
    }

    fn states(node: &Node) -> Vec<State> {
        node.routers().map(|(_, r)| r.state()).collect()
    }

    fn advert(vrid: u8, priority: u8) -> Vec<u8> {
        let config = RouterConfig::new(vrid, Version::V3, priority.max(1));
        let mut peer = Router::new(config, ms(0)).unwrap();
        peer.handle_interface(true, Some(PEER), ms(0));
        let mut out = Vec::new();
        peer.encode_advert(priority, crate::MULTICAST_V4.into(), &mut out);
        out
    }

    fn from_peer() -> Received {
        Received { src: PEER, dst: crate::MULTICAST_V4.into(), ttl: 255 }
    }

    #[test]
    fn a_start_is_no_fault() {
        let mut node = Node::new();
        let routers = [1, 2].map(|vrid| {
            let config = RouterConfig::new(vrid, Version::V3, 100);
            node.add(Router::new(config, ms(0)).unwrap())
        });
        node.add_group(routers.to_vec());
        for id in routers {
            node.with(id, ms(0), |r, now| r.handle_interface(true, Some(OURS), now));
        }
        let to_fault =
            |action: &Action| matches!(action, Action::Transition { to: State::Fault, .. });
        assert!(drain(&mut node).iter().all(|(_, action)| !to_fault(action)));
        assert_eq!(states(&node), [State::Backup; 2]);
        // With one link down from the start both are.
        let mut node = Node::new();
        let routers = [1, 2].map(|vrid| {
            let config = RouterConfig::new(vrid, Version::V3, 100);
            node.add(Router::new(config, ms(0)).unwrap())
        });
        node.add_group(routers.to_vec());
        for (id, up) in routers.into_iter().zip([false, true]) {
            node.with(id, ms(0), |r, now| r.handle_interface(up, Some(OURS), now));
        }
        assert_eq!(states(&node), [State::Fault; 2]);
    }

    #[test]
    fn both_take_over_together() {
        let (mut node, ..) = pair();
        node.handle_timeout(ms(3700));
        assert_eq!(states(&node), [State::Active; 2]);
    }

    #[test]
    fn nobody_takes_over_while_one_hears_a_superior() {
        let (mut node, _, b) = pair();
        for t in 1..10 {
            node.handle_advert(b, &advert(2, 150), from_peer(), ms(t * 1000)).unwrap();
            node.handle_timeout(ms(t * 1000 + 500));
            assert_eq!(states(&node), [State::Backup; 2]);
        }
        // The peer stops there too: now all are free.
        node.handle_advert(b, &advert(2, 0), from_peer(), ms(9700)).unwrap();
        node.handle_timeout(ms(10_400));
        assert_eq!(states(&node), [State::Active; 2]);
    }

    #[test]
    fn a_fault_of_one_is_a_fault_of_all_and_clears_for_all() {
        let (mut node, a, b) = pair();
        node.handle_timeout(ms(3700));
        drain(&mut node);
        node.with(a, ms(3800), |r, now| r.handle_interface(false, None, now));
        assert_eq!(states(&node), [State::Fault; 2]);
        let done = drain(&mut node);
        assert!(done.contains(&(b, Action::RemoveAddresses)));
        assert!(done.contains(&(b, Action::SendAdvert { priority: 0 })));
        assert!(!done.contains(&(a, Action::SendAdvert { priority: 0 })), "its link is down");
        assert!(done.contains(&(
            b,
            Action::Transition {
                from: State::Active,
                to: State::Fault,
                reason: Reason::Fault(Fault::Group)
            }
        )));
        node.with(a, ms(4000), |r, now| r.handle_interface(true, Some(OURS), now));
        assert_eq!(states(&node), [State::Backup; 2]);
    }

    #[test]
    fn a_router_that_leaves_its_group_no_longer_waits_for_the_others() {
        let (mut node, _, b) = pair();
        for t in 1..=5 {
            node.handle_advert(b, &advert(2, 150), from_peer(), ms(t * 1000)).unwrap();
            node.handle_timeout(ms(t * 1000 + 100));
        }
        assert_eq!(states(&node), [State::Backup; 2]);
        node.set_groups(Vec::new(), ms(5200));
        while let Some(at) = node.poll_timeout()
            && at < ms(9000)
        {
            node.handle_timeout(at);
        }
        assert_eq!(node.routers().next().unwrap().1.state(), State::Active);
    }

    #[test]
    fn one_sent_back_takes_the_other_with_it() {
        let (mut node, a, b) = pair();
        node.handle_timeout(ms(3700));
        drain(&mut node);
        node.handle_advert(a, &advert(1, 150), from_peer(), ms(3800)).unwrap();
        assert_eq!(states(&node), [State::Backup; 2]);
        assert!(drain(&mut node).contains(&(b, Action::RemoveAddresses)));
    }
}
