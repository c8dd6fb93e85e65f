//! What is learnt from a reply, before the client sees it.

use std::sync::Arc;
use std::time::Instant;

use pointsman_cluster::gtid::Position;
use pointsman_cluster::{Astray, Touched};
use pointsman_session::Digest;
use pointsman_sql::{Class, Effects, Reason, Route};
use pointsman_wire::{Control, ErrPacket, OkPacket, Status};
use smallvec::SmallVec;

use crate::fate::{Commit, commits};
use crate::job::{Job, Kind};
use crate::prepared::{Context, Prepared, PreparedStatement};
use crate::recover::is_rollback;
use crate::relay::Watcher;
use crate::room;
use crate::worker::Worker;

/// Access denied of various kinds, and syntax errors.
const CHANGED_NOTHING: [u16; 5] = [1044, 1045, 1064, 1142, 1227];

/// A Galera node that is not, or no longer, part of its cluster refuses all statements with
/// `ER_UNKNOWN_COM_ERROR`.
const NOT_READY: u16 = 1047;

/// Takes note of what a reply brings, before the client sees it.
pub(crate) struct Watching<'a> {
    pub(crate) job: &'a Job,
    pub(crate) command: &'a [u8],
    pub(crate) prepared: &'a mut Prepared,
    pub(crate) worker: &'a Worker,
    pub(crate) primary: bool,
    /// It takes writes, or did when the open transaction began.
    pub(crate) writable: bool,
    pub(crate) wrote: &'a mut Option<(u64, Position)>,
    pub(crate) unsure: &'a mut Option<Astray>,
    pub(crate) untold: &'a mut Option<u64>,
    pub(crate) touched: &'a mut Touched,
    pub(crate) context: Context,
    pub(crate) client_id: Option<u32>,
    pub(crate) digest: Option<&'a mut Digest>,
    /// The servers are nodes of a Galera cluster.
    pub(crate) galera: bool,
    /// A reply that names no GTID may mean that there are none.
    pub(crate) tells: bool,
    /// Nobody else sees what it writes.
    pub(crate) temporary: bool,
    /// One was named.
    pub(crate) told: bool,
    /// Before it was sent.
    pub(crate) began: Instant,
    /// See [`Backend::committed`].
    pub(crate) committed: Option<SmallVec<[Commit; 1]>>,
}

impl Watcher for Watching<'_> {
    fn prepared(&mut self, _: u32, params: u16) -> u32 {
        let id = self.prepared.insert(PreparedStatement {
            command: self.command.into(),
            statement: Arc::clone(&self.job.statement),
            params,
            types: None,
            cursor_at: None,
            long_data: Default::default(),
            context: self.context.clone(),
        });
        self.client_id = Some(id);
        id
    }

    fn began(&self) -> Instant {
        self.began
    }

    fn wrote(&mut self, gtid: &[u8], began: Instant) {
        self.told = true;
        self.touched.told();
        if self.galera {
            // Each node may number by itself; see `commits_unsaid`.
            return;
        }
        let flavour = self.worker.snapshot(|s| s.greeting.flavour());
        if let Ok(position) = Position::parse(flavour, gtid) {
            self.worker.shared.cluster.check_write(&position, began);
            self.worker.shared.cluster.note_write(&position, self.touched);
            self.worker.told(&position);
            self.changed_at(&position);
            self.remember(&position);
        }
    }

    fn commits_unsaid(&self, status: Status) -> bool {
        // These commit what was open before them, whatever they begin.
        let ends = Effects::ENDS
            | Effects::HIDDEN_CODE
            | Effects::MULTI
            | Effects::TEXT_PREPARE
            | Effects::SET_OTHER;
        let verdict = &self.job.statement.verdict;
        let harmless = verdict.route == Route::AnySession
            || verdict.class == Class::Read && verdict.route == Route::AnyReplica;
        let open = status.contains(Status::IN_TRANSACTION);
        self.galera
            && self.job.executes()
            && (verdict.effects.intersects(ends) || !open && !harmless)
    }

    fn ended(&mut self, status: Status) {
        if !self.tells || self.told {
            return;
        }
        let effects = self.job.statement.verdict.effects;
        // What is only set is in no binary log.
        let accounts = self.changes_servers()
            && (effects.contains(Effects::DDL) || !effects.contains(Effects::SET_OTHER));
        let changed = effects.contains(Effects::DDL) && !self.temporary;
        let lasting = self.touched.is_lasting() || changed || accounts;
        let over = effects.intersects(Effects::ENDS) || !status.contains(Status::IN_TRANSACTION);
        if !lasting || !over || is_rollback(self.job) {
            return;
        }
        let cluster = &self.worker.shared.cluster;
        *self.untold = Some(cluster.note_untold());
        if accounts {
            self.worker.shared.server_wide.note_astray(cluster.note_astray());
        }
    }

    async fn wrote_somewhere(&mut self) {
        if self.galera {
            let cluster = &self.worker.shared.cluster;
            let position = cluster.note_numbered_write();
            self.changed_at(&position);
            self.remember(&position);
            // Another one takes the writes by now, and must not be read without this one.
            let writer = self.worker.snapshot(|s| s.primary).filter(|_| !self.primary);
            if let Some(writer) = writer {
                let within = self.worker.shared.config.monitor.timeout;
                let arrived = cluster.wait_applied(&[writer], &position, within).await;
                if arrived.is_none() {
                    *self.unsure = Some(Astray::FOR_GOOD);
                }
            }
            return;
        }
        if self.writable {
            match self.worker.note_present_position(self.touched).await {
                Some(position) => {
                    self.changed_at(&position);
                    self.remember(&position);
                }
                None => {
                    self.committed = None;
                    let write = self.worker.shared.cluster.note_astray();
                    if self.changes_servers() {
                        self.worker.shared.server_wide.note_astray(write);
                    }
                    *self.unsure = Some(write);
                }
            }
        }
    }

    fn passing(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.bytes(bytes);
        }
    }

    fn said(&mut self, control: &Control<'_>) {
        // Who may not, or says it wrong, has changed nothing.
        let refused =
            |c: &Control<'_>| matches!(c, Control::Err(e) if CHANGED_NOTHING.contains(&e.code));
        if self.changes_servers() && !refused(control) {
            // Where that is, is not known before the packet's news are read.
            self.worker.shared.server_wide.note();
        }
        if let Control::Ok(ok) = control
            && self.tells
            && !self.temporary
            && ok.affected_rows > 0
            && self.job.statement.verdict.reason != Reason::SelectInto
            && !(is_update(self.job) && left_as_it_was(ok))
        {
            self.touched.lasting();
        }
        if let Some(digest) = &mut self.digest {
            digest.control(control);
        }
    }

    fn is_read_only(&self, error: &ErrPacket<'_>) -> bool {
        let several = Effects::MULTI | Effects::HIDDEN_CODE | Effects::TEXT_PREPARE;
        if self.galera && error.code == NOT_READY {
            // It was turned away at the door, as far as it is one statement.
            return !self.job.bulk && !self.job.statement.verdict.effects.intersects(several);
        }
        self.writable
            && error.code == 1290
            // Of these a part may have been done.
            && !self.job.bulk
            && !self.job.statement.verdict.effects.intersects(several)
            && [&b"read-only"[..], b"read_only"]
                .iter()
                .any(|word| error.message.windows(word.len()).any(|w| w == *word))
    }

    fn is_full(&self, error: &ErrPacket<'_>) -> bool {
        self.job.kind == Kind::Prepare && error.code == room::FULL
    }

    fn is_behind(&self, error: &ErrPacket<'_>) -> bool {
        // Unknown or forbidden database, unknown role, missing privilege: it may have come to be a
        // moment ago.
        let may_be_new = matches!(error.code, 1044 | 1049 | 1227 | 1959 | 3530);
        may_be_new && !self.primary && self.job.statement.verdict.route == Route::AnySession
    }

    fn may_have_written(&self, in_transaction: bool) -> bool {
        let verdict = &self.job.statement.verdict;
        // These commit what is open before they fail, or by themselves.
        let ends = Effects::DDL
            | Effects::HIDDEN_CODE
            | Effects::MULTI
            | Effects::BEGIN
            | Effects::END
            | Effects::LOCK
            | Effects::TEXT_PREPARE;
        self.writable
            && self.job.executes()
            && (verdict.class == Class::Write && !in_transaction
                || verdict.effects.intersects(ends))
    }
}

impl Watching<'_> {
    fn changes_servers(&self) -> bool {
        self.job.statement.verdict.effects.contains(Effects::SERVER_WIDE)
    }

    /// What it did is at this position, if it is a change of accounts or the like.
    fn changed_at(&self, position: &Position) {
        if self.changes_servers() {
            self.worker.shared.server_wide.note_at(position);
        }
    }

    fn remember(&mut self, position: &Position) {
        let now = self.worker.snapshot(|s| s.generation);
        match self.wrote {
            Some((generation, wrote)) if *generation == now => wrote.merge(position),
            _ => *self.wrote = Some((now, position.clone())),
        }
        *self.unsure = None;
        let committed = self.committed.get_or_insert_default();
        committed.clear();
        committed.extend(commits(position));
    }
}

fn is_update(job: &Job) -> bool {
    job.statement.verdict.detail.as_deref().is_some_and(|word| word.eq_ignore_ascii_case("UPDATE"))
}

/// An `UPDATE` whose client counts the rows that it finds (CLIENT_FOUND_ROWS) is told as well how many
/// it changed: the second number in "Rows matched: 1  Changed: 0  Warnings: 0", in whichever language.
fn left_as_it_was(ok: &OkPacket<'_>) -> bool {
    let mut numbers = ok.info.split(|b| !b.is_ascii_digit()).filter(|number| !number.is_empty());
    numbers.nth(1) == Some(b"0")
}
