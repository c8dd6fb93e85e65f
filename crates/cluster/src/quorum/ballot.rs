//! A proxy's session on one server that holds its locks: see [`super`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use mysql_async::Error as SqlError;
use tokio::time::{MissedTickBehavior, timeout};

use super::{BEAT, Ballot, Beat, Holder, PERMIT, SESSION, Wish};
use crate::link::{Fields, Link, failure};
use crate::monitor::Shared;
use crate::probe::Look;

/// Most proxies that can be members at one server.
const SLOTS: usize = 32;

struct Session {
    link: Link,
    /// As in [`Ballot::session`].
    number: u64,
    /// The slot of this proxy at this server, from 1.
    slot: Option<usize>,
    held: Wish,
    /// The connection that leads, and where it comes from.
    leader: Option<(u64, Option<String>)>,
}

/// Renews the locks at server `i`, for ever.
pub(crate) async fn run(shared: Arc<Shared>, i: usize) {
    let watched = &shared.watched[i];
    let mut session: Option<Session> = None;
    let mut number = 0;
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = watched.wake_ballot.notified() => {}
        }
        // Nothing is said that was not done before.
        shared.agree();
        if shared.topology().elects_for_itself() {
            session = None;
            continue;
        }
        let wish = shared.wish(i);
        let ids = shared.topology().server_ids();
        let asked = Instant::now();
        let outcome = match &mut session {
            Some(session) => timeout(SESSION, session.beat(wish, &ids)).await,
            None => {
                number += 1;
                let begin = async {
                    let mut new = Session::begin(&shared, i, number).await?;
                    let ballot = new.beat(wish, &ids).await?;
                    session = Some(new);
                    Ok(ballot)
                };
                timeout(PERMIT, begin).await
            }
        };
        let mut turned_away = false;
        let beat = match outcome {
            Ok(Ok(ballot)) => Beat::Answer(ballot),
            Ok(Err(error)) => {
                session = None;
                turned_away = matches!(error, SqlError::Server(_));
                match failure(&error) {
                    Look::Refused(_) => Beat::Refused,
                    _ => Beat::Lost,
                }
            }
            Err(_) => {
                session = None;
                Beat::Lost
            }
        };
        if turned_away {
            // Soon enough for whoever mends that.
            shared.beat(i, asked, beat);
            tokio::time::sleep(PERMIT).await;
            continue;
        }
        if beat == Beat::Lost {
            // Whether it still runs is known once it is connected to again.
            watched.wake_ballot.notify_one();
            tokio::time::sleep(BEAT / 4).await;
        }
        shared.beat(i, asked, beat);
    }
}

impl Session {
    async fn begin(shared: &Shared, i: usize, number: u64) -> Result<Self, SqlError> {
        let mut link = shared.watched[i].target.connect().await?;
        link.run(&format!("SET SESSION wait_timeout = {}", SESSION.as_secs())).await?;
        Ok(Self { link, number, slot: None, held: Wish::default(), leader: None })
    }

    /// `ids` are those of servers that might be named as the primary.
    async fn beat(&mut self, wish: Wish, ids: &[u32]) -> Result<Ballot, SqlError> {
        // What stops others comes first, what lets them go on last.
        self.hold("change", wish.change || self.held.change, self.held.change).await?;
        self.hold("switch", wish.switch || self.held.switch, self.held.switch).await?;
        if let Some(slot) = self.slot {
            self.hold(&format!("cut.{slot}"), wish.cut, self.held.cut).await?;
        }
        let named = self.held.names.then_some(self.held.primary);
        let names = (wish.names && wish.primary != 0).then_some(wish.primary);
        if named != names {
            if let Some(id) = named {
                self.hold(&format!("primary.{id}"), false, true).await?;
            }
            if let Some(id) = names {
                self.hold(&format!("primary.{id}"), true, false).await?;
            }
        }
        self.hold("want", wish.want, self.held.want).await?;
        self.hold("lead", wish.lead, self.held.lead).await?;
        self.hold("change", wish.change, self.held.change || wish.change).await?;
        self.hold("switch", wish.switch, self.held.switch || wish.switch).await?;
        let mut ballot = self.ask(wish.primary, ids).await?;
        if wish.member && self.slot.is_none() {
            // The next free one; another proxy may be faster.
            if let Some(slot) = ballot.1 {
                self.hold(&format!("member.{slot}"), true, false).await?;
                self.slot = Some(slot);
                if wish.cut {
                    self.hold(&format!("cut.{slot}"), true, false).await?;
                }
                ballot = self.ask(wish.primary, ids).await?;
            }
        }
        Ok(ballot.0)
    }

    async fn hold(&mut self, lock: &str, wish: bool, held: bool) -> Result<(), SqlError> {
        match (wish, held) {
            (true, false) => self.link.run(&format!("DO GET_LOCK('pointsman.{lock}', 0)")).await,
            (false, true) => self.link.run(&format!("DO RELEASE_LOCK('pointsman.{lock}')")).await,
            _ => Ok(()),
        }
    }

    /// What there is, and the first free slot.
    async fn ask(
        &mut self,
        primary: u32,
        ids: &[u32],
    ) -> Result<(Ballot, Option<usize>), SqlError> {
        let mut sql = format!(
            "SELECT CONNECTION_ID() AS me, IS_USED_LOCK('pointsman.primary.{primary}') AS named"
        );
        for id in ids {
            let _ = write!(sql, ", IS_USED_LOCK('pointsman.primary.{id}') AS p{id}");
        }
        for lock in ["lead", "change", "switch", "want"] {
            let _ = write!(sql, ", IS_USED_LOCK('pointsman.{lock}') AS used_{lock}");
        }
        for slot in 1..=SLOTS {
            let _ = write!(
                sql,
                ", IS_USED_LOCK('pointsman.member.{slot}') AS m{slot}, \
                 IS_USED_LOCK('pointsman.cut.{slot}') AS c{slot}"
            );
        }
        let rows = self.link.rows(&sql).await?;
        let row = rows.first().ok_or_else(|| SqlError::Other("no row".into()))?;
        let row = Fields(row);
        let me: u64 = row.number(&["me"]).unwrap_or(0);
        let by = |name: &str| -> Option<u64> { row.number(&[name]) };
        let holder = |name: &str| match by(name) {
            None => Holder::Nobody,
            Some(id) if id == me => Holder::Me,
            Some(_) => Holder::Other,
        };
        let mut ballot = Ballot {
            session: self.number,
            lead: holder("used_lead"),
            change: holder("used_change"),
            switch: holder("used_switch"),
            want: holder("used_want"),
            ..Ballot::default()
        };
        if ballot.lead == Holder::Other {
            ballot.names = ids.iter().copied().find(|id| by(&format!("p{id}")) == by("used_lead"));
        }
        let mut free = None;
        let mut slot_of_mine = None;
        for slot in 1..=SLOTS {
            let cut = by(&format!("c{slot}"));
            match by(&format!("m{slot}")) {
                None => free = free.or(Some(slot)),
                Some(id) if id == me => {
                    (ballot.member, ballot.cut) = (true, cut == Some(me));
                    slot_of_mine = Some(slot);
                }
                Some(id) => {
                    ballot.others += 1;
                    ballot.others_cut += u8::from(cut == Some(id));
                }
            }
        }
        self.slot = slot_of_mine;
        self.held = Wish {
            lead: ballot.lead == Holder::Me,
            change: ballot.change == Holder::Me,
            switch: ballot.switch == Holder::Me,
            want: ballot.want == Holder::Me,
            member: ballot.member,
            cut: ballot.cut,
            names: by("named") == Some(me),
            primary,
        };
        let leader = by("used_lead").filter(|&id| id != me);
        ballot.leads = leader.unwrap_or(0);
        if self.leader.as_ref().map(|(id, _)| *id) != leader {
            self.leader = match leader {
                Some(id) => Some((id, self.host_of(id).await?)),
                None => None,
            };
        }
        ballot.leader = self.leader.as_ref().and_then(|(_, host)| host.clone());
        Ok((ballot, free))
    }

    /// Where connection `id` comes from, without the port.
    async fn host_of(&mut self, id: u64) -> Result<Option<String>, SqlError> {
        let sql =
            format!("SELECT HOST AS host FROM information_schema.PROCESSLIST WHERE ID = {id}");
        let rows = self.link.rows(&sql).await?;
        let host = rows.first().and_then(|row| Fields(row).text(&["host"]));
        Ok(host.map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
            _ => host,
        }))
    }
}
