//! Whatever happens, in whichever order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Write(usize),
    Replicate,
    Kill(usize),
    Restart(usize),
    Wipe(usize),
    Hang(usize, bool),
    ReadOnly(usize, bool),
    Replication(usize, bool),
    Break(usize),
    Promote(usize),
    Repoint(usize, usize),
    Look(usize),
    LookLate(usize),
    Arrive(usize),
    Pass(u64),
    Admin(usize, AdminState),
}

fn op(n: usize) -> impl Strategy<Value = Op> {
    let i = 0..n;
    prop_oneof![
        4 => i.clone().prop_map(Op::Write),
        4 => Just(Op::Replicate),
        1 => i.clone().prop_map(Op::Kill),
        2 => i.clone().prop_map(Op::Restart),
        1 => i.clone().prop_map(Op::Wipe),
        1 => (i.clone(), any::<bool>()).prop_map(|(i, b)| Op::Hang(i, b)),
        1 => (i.clone(), any::<bool>()).prop_map(|(i, b)| Op::ReadOnly(i, b)),
        1 => (i.clone(), any::<bool>()).prop_map(|(i, b)| Op::Replication(i, b)),
        1 => i.clone().prop_map(Op::Break),
        1 => i.clone().prop_map(Op::Promote),
        1 => (i.clone(), 0..n + 1).prop_map(|(i, j)| Op::Repoint(i, j)),
        12 => i.clone().prop_map(Op::Look),
        4 => i.clone().prop_map(Op::LookLate),
        4 => (0..8_usize).prop_map(Op::Arrive),
        6 => prop_oneof![1..300_u64, 1000..3000_u64].prop_map(Op::Pass),
        1 => (i, 0..3).prop_map(|(i, a)| Op::Admin(i, match a {
            0 => AdminState::Running,
            1 => AdminState::Draining,
            _ => AdminState::Maintenance,
        })),
    ]
}

impl World {
    fn apply(&mut self, op: Op) {
        let restart = |m: &mut Machine| {
            m.connection += u64::from(!m.up);
            m.up = true;
        };
        match op {
            Op::Write(i) => {
                let m = &mut self.machines[i];
                m.position += u64::from(m.up && !m.hangs && !m.read_only && m.source.is_none());
            }
            Op::Replicate => self.replicate(),
            Op::Kill(i) => self.machines[i].up = false,
            Op::Restart(i) => restart(&mut self.machines[i]),
            Op::Wipe(i) => {
                let m = &mut self.machines[i];
                m.up = false;
                restart(m);
                (m.position, m.source, m.read_only, m.sql_error) = (0, None, false, None);
            }
            Op::Hang(i, on) => self.machines[i].hangs = on,
            Op::ReadOnly(i, on) => self.machines[i].read_only = on,
            Op::Replication(i, on) => {
                (self.machines[i].io, self.machines[i].sql) = (on, on);
            }
            Op::Break(i) => self.machines[i].sql_error = Some(1062),
            Op::Promote(i) => {
                (self.machines[i].source, self.machines[i].read_only) = (None, false);
            }
            Op::Repoint(i, j) => {
                if i != j {
                    self.machines[i].source = Some(j);
                }
            }
            Op::Look(i) => self.look(i),
            Op::LookLate(i) => {
                let look = self.see(i);
                self.late.push((i, self.now, look));
            }
            Op::Arrive(k) => {
                if !self.late.is_empty() {
                    let (i, asked, look) = self.late.swap_remove(k % self.late.len());
                    self.deliver(i, asked, look);
                }
            }
            Op::Pass(ms) => {
                self.pass(ms);
                self.evaluate();
            }
            Op::Admin(i, admin) => {
                self.topology.set_admin(id_of(i), admin);
                self.evaluate();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever happens: never two primaries (see `check`); and once the set is in order and
    /// answers, it is known to be so within the timeout.
    #[test]
    fn never_two_primaries_and_one_in_the_end(
        n in 1..5_usize,
        ops in prop::collection::vec(op(4), 0..120),
        chosen in 0..4_usize,
    ) {
        let mut w = World::new(n);
        for op in ops {
            let in_range = match &op {
                Op::Write(i) | Op::Kill(i) | Op::Restart(i) | Op::Wipe(i) | Op::Hang(i, _)
                | Op::ReadOnly(i, _) | Op::Replication(i, _) | Op::Break(i) | Op::Promote(i)
                | Op::Repoint(i, _) | Op::Look(i) | Op::LookLate(i) | Op::Admin(i, _) => *i < n,
                _ => true,
            };
            if in_range {
                w.apply(op);
            }
        }
        let chosen = chosen % n;
        let newest = w.machines.iter().map(|m| m.position).max().unwrap();
        // What was seen may have been wiped since.
        let seen = w.topology.timeline.newest().map_or(0, |p| {
            p.to_string().rsplit('-').next().unwrap().parse().unwrap_or(0)
        });
        for (i, m) in w.machines.iter_mut().enumerate() {
            let primary = i == chosen;
            *m = Machine {
                up: true,
                hangs: false,
                read_only: !primary,
                source: (!primary).then_some(chosen),
                io: true,
                sql: true,
                sql_error: None,
                position: newest.max(seen) + 1,
                state: "",
                gtid_mode: "",
                auto_position: true,
                connection: m.connection,
                own: false,
            };
            w.topology.set_admin(id_of(i), AdminState::Running);
        }
        w.ticks(2);
        prop_assert_eq!(w.primary(), Some(chosen as u16 + 1), "{:#?}", w.snapshot());
        // If it has begun anew, somebody has to vouch for replicas that were not seen to.
        for i in 0..n {
            w.topology.set_admin(id_of(i), AdminState::Running);
        }
        w.ticks(1);
        for server in &w.snapshot().servers {
            let healthy = server.takes_reads || server.role == Role::Primary;
            prop_assert!(healthy, "{:?}", server);
        }
    }
}
