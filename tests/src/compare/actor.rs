//! One connection of a story, and what it sees.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pointsman_wire::Capabilities;

use super::case::{Action, Param};
use super::render::{Shape, text};
use crate::{Raw, ServerError};

/// How long `!closed` waits for that.
const CLOSES_WITHIN: Duration = Duration::from_secs(4);

/// A reply that was not read yet.
enum Owed {
    Nothing,
    Results,
}

pub struct Actor {
    db: Option<Raw>,
    shape: Shape,
    statements: HashMap<String, (u32, u16)>,
    owed: Owed,
}

/// COM_STMT_EXECUTE's fixed part for an id, with flags.
fn execution(id: u32, flags: u8) -> Vec<u8> {
    let mut out = id.to_le_bytes().to_vec();
    out.push(flags);
    out.extend_from_slice(&1u32.to_le_bytes());
    out
}

fn kind(param: &Param) -> [u8; 2] {
    match param {
        Param::Null => [6, 0],
        Param::Int(_) => [8, 0],
        Param::Double(_) => [5, 0],
        Param::Text(_) => [0xfd, 0],
        Param::Long => [0xfc, 0],
    }
}

fn put_value(out: &mut Vec<u8>, param: &Param) {
    match param {
        Param::Null | Param::Long => {}
        Param::Int(n) => out.extend_from_slice(&n.to_le_bytes()),
        Param::Double(n) => out.extend_from_slice(&n.to_le_bytes()),
        Param::Text(bytes) => pointsman_wire::put_lenenc_bytes(out, bytes),
    }
}

fn put_params(out: &mut Vec<u8>, params: &[Param], query_attributes: bool) {
    if query_attributes {
        pointsman_wire::put_lenenc(out, params.len() as u64);
    }
    if params.is_empty() {
        return;
    }
    let mut nulls = vec![0u8; params.len().div_ceil(8)];
    for (i, param) in params.iter().enumerate() {
        if *param == Param::Null {
            nulls[i / 8] |= 1 << (i % 8);
        }
    }
    out.extend_from_slice(&nulls);
    out.push(1);
    for param in params {
        out.extend_from_slice(&kind(param));
        if query_attributes {
            out.push(0); // no name
        }
    }
    params.iter().for_each(|p| put_value(out, p));
}

impl Actor {
    /// Logs in; the lines say what came of it.
    pub fn connect(
        port: u16,
        user: &str,
        password: &str,
        database: Option<&str>,
        caps: Capabilities,
    ) -> Result<(Self, Vec<String>)> {
        let mut shape = Shape { caps, files: Vec::new() };
        let (db, line) = match Raw::login(port, user, password, database, caps) {
            Ok(db) => {
                // What the server lacks was not agreed on.
                shape.caps = db.caps();
                let line = shape.ok(db.login_ok())?.0;
                (Some(db), line)
            }
            Err(error) => match error.downcast_ref::<ServerError>() {
                Some(e) => (None, format!("ERROR {} {} {}", e.code, e.sqlstate, e.message)),
                None => return Err(error),
            },
        };
        let actor = Self { db, shape, statements: HashMap::new(), owed: Owed::Nothing };
        Ok((actor, vec![format!("LOGIN {line}")]))
    }

    /// As told in the greeting.
    pub fn id(&self) -> Option<u32> {
        self.db.as_ref().map(|db| db.greeting.connection_id)
    }

    /// Does it, and tells what came back; an end of the connection is part of the story.
    pub fn act(&mut self, action: &Action) -> Vec<String> {
        let mut out = Vec::new();
        if let Err(error) = self.try_act(action, &mut out) {
            out.push(format!("LOST {error:#}"));
            self.db = None;
        }
        out
    }

    fn statement(&self, name: &str) -> (u32, u16) {
        match name {
            "last" => (u32::MAX, 0),
            "nosuch" => (0x0fff_ffff, 0),
            _ => self.statements.get(name).copied().unwrap_or((0x0fff_ffff, 0)),
        }
    }

    fn try_act(&mut self, action: &Action, out: &mut Vec<String>) -> Result<()> {
        if let Action::File(content) = action {
            self.shape.files.push(content.clone());
            return Ok(());
        }
        let attributes = self.shape.caps.contains(Capabilities::QUERY_ATTRIBUTES);
        let target = match action {
            Action::Execute { name, .. }
            | Action::Bulk { name, .. }
            | Action::Fetch { name, .. }
            | Action::LongData { name, .. }
            | Action::ResetStatement(name)
            | Action::Close(name) => self.statement(name),
            _ => (0, 0),
        };
        let Self { db, shape, statements, owed } = self;
        let opened = db;
        let db = opened.as_mut().context("not connected")?;
        match action {
            Action::Query { sql, wait } => {
                if attributes {
                    // No parameters, in one set.
                    db.command(3, &[&[0, 1], &sql[..]].concat())?;
                } else {
                    db.command(3, sql)?;
                }
                match wait {
                    true => shape.results(db, false, out)?,
                    false => *owed = Owed::Results,
                }
            }
            Action::Read => {
                if matches!(owed, Owed::Results) {
                    shape.results(db, false, out)?;
                }
                *owed = Owed::Nothing;
            }
            Action::Prepare { name, sql } => {
                db.command(0x16, sql)?;
                match shape.prepared(db, out)? {
                    Some(id) => statements.insert(name.clone(), id),
                    None => statements.remove(name),
                };
            }
            Action::Execute { params, cursor, .. } => {
                // With attributes, the number of parameters follows (flag 8).
                let flags = u8::from(*cursor) | if attributes { 8 } else { 0 };
                let mut packet = execution(target.0, flags);
                put_params(&mut packet, params, attributes);
                db.command(0x17, &packet)?;
                shape.results(db, true, out)?;
            }
            Action::Bulk { rows, .. } => {
                // Flag 128: types follow.
                let mut packet = target.0.to_le_bytes().to_vec();
                packet.extend_from_slice(&[128, 0]);
                for param in rows.first().into_iter().flatten() {
                    packet.extend_from_slice(&kind(param));
                }
                for param in rows.iter().flatten() {
                    // An indicator before each value: 0 none, 1 NULL.
                    packet.push(u8::from(*param == Param::Null));
                    put_value(&mut packet, param);
                }
                db.command(0xfa, &packet)?;
                shape.results(db, true, out)?;
            }
            Action::Fetch { rows, .. } => {
                db.command(0x1c, &[target.0.to_le_bytes(), rows.to_le_bytes()].concat())?;
                shape.rows(db, true, out)?;
            }
            Action::LongData { param, data, .. } => {
                let id = target.0.to_le_bytes();
                db.command(0x18, &[&id[..], &param.to_le_bytes(), data].concat())?;
            }
            Action::ResetStatement(_) => {
                db.command(0x1a, &target.0.to_le_bytes())?;
                shape.results(db, false, out)?;
            }
            Action::Close(name) => {
                db.command(0x19, &target.0.to_le_bytes())?;
                statements.remove(name);
            }
            Action::Command(byte, argument) => {
                db.command(*byte, argument)?;
                match byte {
                    0x04 => shape.fields(db, out)?,
                    0x09 => out.push(format!("TEXT {}", text(&db.packet()?))),
                    _ => shape.results(db, false, out)?,
                }
            }
            Action::ChangeUser { user, password, database, collation } => {
                let packet = db.change_user_in(user, password, database.as_deref(), *collation)?;
                out.push(match packet.first() {
                    Some(0xff) => shape.err(&packet)?,
                    _ => shape.ok(&packet)?.0,
                });
                statements.clear();
            }
            Action::Disconnect => *opened = None,
            Action::Closed => {
                let closed = db.is_closed(CLOSES_WITHIN);
                out.push(if closed { "CLOSED" } else { "STILL OPEN" }.to_owned());
                *opened = None;
            }
            Action::Connect { .. } | Action::File(_) | Action::Until(_) => {}
        }
        Ok(())
    }
}
