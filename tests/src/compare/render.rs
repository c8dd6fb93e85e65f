//! Replies as lines of text: everything a client can see in them.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use pointsman_wire::{
    Capabilities, ErrPacket, MAX_PAYLOAD, OkPacket, Reader, StateChange, Status, auth,
};

use crate::Raw;
use crate::raw::{definitions, is_progress};

/// Bytes as a person reads them.
pub fn text(bytes: &[u8]) -> String {
    let shown = |bytes: &[u8]| -> String {
        let mut out = String::new();
        for chunk in bytes.utf8_chunks() {
            out.extend(chunk.valid().chars().flat_map(|c| match c {
                '\\' => vec!['\\', '\\'],
                c if c.is_control() => c.escape_default().collect(),
                c => vec![c],
            }));
            for byte in chunk.invalid() {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
        out
    };
    match bytes.len() {
        0..=2000 => shown(bytes),
        n => {
            let sum = bytes.iter().fold(0u64, |sum, b| {
                sum.wrapping_mul(1_099_511_628_211).wrapping_add(u64::from(*b) + 1)
            });
            format!("{}... ({n} bytes, sum {sum:x})", shown(&bytes[..80]))
        }
    }
}

fn status(status: Status) -> String {
    let names: Vec<_> = status.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    names.join("|")
}

/// How a connection's replies are shaped.
pub struct Shape {
    pub caps: Capabilities,
    /// Answers to requests for files, next first.
    pub files: Vec<Option<Vec<u8>>>,
}

impl Shape {
    fn deprecate_eof(&self) -> bool {
        self.caps.contains(Capabilities::DEPRECATE_EOF)
    }

    pub fn err(&self, packet: &[u8]) -> Result<String> {
        let e = ErrPacket::parse(packet)?;
        Ok(format!("ERROR {} {} {}", e.code, text(e.sqlstate), text(e.message)))
    }

    /// The OK packet at a reply's end, or where a result set ends; with its status.
    pub fn ok(&self, packet: &[u8]) -> Result<(String, Status)> {
        let eof = packet[0] == 0xfe && packet.len() == 5;
        if eof {
            let mut r = Reader::new(&packet[1..]);
            let warnings = r.u16()?;
            let flags = Status::from_bits_retain(r.u16()?);
            return Ok((format!("EOF warnings={warnings} status={}", status(flags)), flags));
        }
        let ok = OkPacket::parse(packet, self.caps)?;
        let mut flags = ok.status;
        if ok.state.is_empty() {
            // "Something changed", and no word what: MySQL says so now and then.
            flags -= Status::SESSION_STATE_CHANGED;
        }
        let word = if packet[0] == 0xfe { "END" } else { "OK" };
        let mut line = format!(
            "{word} affected={} id={} warnings={} status={}",
            ok.affected_rows,
            ok.last_insert_id,
            ok.warnings,
            status(flags)
        );
        if ok.info.first() == Some(&auth::VOUCHED) {
            // It is made from the login's salt.
            line.push_str(" info=(vouches for the certificate)");
        } else if !ok.info.is_empty() {
            let _ = write!(line, " info={:?}", text(ok.info));
        }
        let mut changes: Vec<_> = ok
            .state_changes()
            .map(|change| match change {
                StateChange::Variable { name, value } => {
                    format!(" [{}={}]", text(name), text(value))
                }
                StateChange::Schema(name) => format!(" [schema={}]", text(name)),
                StateChange::Changed => " [changed]".to_owned(),
                StateChange::Gtids(gtids) => format!(" [gtids={}]", text(gtids)),
                StateChange::TransactionCharacteristics(t) => {
                    format!(" [transaction {}]", text(t))
                }
                StateChange::TransactionState(t) => format!(" [state {}]", text(t)),
                StateChange::Other(kind) => format!(" [kind {kind}]"),
            })
            .collect();
        // Servers report them in the order of a hash table.
        changes.sort();
        line.extend(changes);
        Ok((line, ok.status))
    }

    fn column(&self, packet: &[u8]) -> Result<String> {
        let mut r = Reader::new(packet);
        let mut names = Vec::new();
        for _ in 0..6 {
            names.push(text(r.lenenc_bytes()?));
        }
        let mut line = format!(
            "COLUMN {:?} as {:?} of {}.{} as {:?}",
            names[5], names[4], names[1], names[3], names[2]
        );
        if self.caps.contains(Capabilities::MARIADB_EXTENDED_METADATA) {
            let _ = write!(line, " extended={:?}", text(r.lenenc_bytes()?));
        }
        let fixed = r.lenenc()?;
        let (charset, length, kind) = (r.u16()?, r.u32()?, r.u8()?);
        let (flags, decimals) = (r.u16()?, r.u8()?);
        let _ = write!(
            line,
            " type={kind:#x} length={length} charset={charset} flags={flags:#x} decimals={decimals}"
        );
        ensure!(fixed == 12, "{fixed} bytes of fixed fields");
        let rest = &r.rest()[2..];
        if !rest.is_empty() {
            let _ = write!(line, " default={:?}", text(rest));
        }
        Ok(line)
    }

    fn row(binary: bool, packet: &[u8]) -> Result<String> {
        if binary {
            // As it came: what stands where is the columns' affair.
            return Ok(format!("ROW {}", text(packet)));
        }
        let mut r = Reader::new(packet);
        let mut line = "ROW".to_owned();
        while let Some(first) = r.rest().first() {
            if *first == 0xfb {
                r.u8()?;
                line.push_str(" NULL");
            } else {
                let _ = write!(line, " \"{}\"", text(r.lenenc_bytes()?));
            }
        }
        Ok(line)
    }

    fn ends_rows(&self, packet: &[u8]) -> bool {
        packet[0] == 0xfe
            && packet.len() < MAX_PAYLOAD
            && (self.deprecate_eof() || packet.len() == 5)
    }

    /// The next packet that is no progress report; those are told, but for how much is done: that is
    /// a matter of time.
    fn news(&self, db: &mut Raw, out: &mut Vec<String>) -> Result<Vec<u8>> {
        loop {
            let packet = db.packet()?;
            if !is_progress(&packet, self.caps) {
                return Ok(packet);
            }
            let mut r = Reader::new(&packet[3..]);
            let (strings, stage, stages) = (r.u8()?, r.u8()?, r.u8()?);
            r.take(3)?;
            let info = text(r.lenenc_bytes()?);
            ensure!(strings == 1 && r.is_empty(), "no progress report: {packet:?}");
            let line = format!("PROGRESS {stage}/{stages} {info:?}");
            if out.last() != Some(&line) {
                out.push(line);
            }
        }
    }

    /// OK, ERR, or result sets and whatever follows them.
    pub fn results(&mut self, db: &mut Raw, binary: bool, out: &mut Vec<String>) -> Result<()> {
        loop {
            let first = self.news(db, out)?;
            match first.first() {
                Some(0xff) => {
                    out.push(self.err(&first)?);
                    return Ok(());
                }
                Some(0) => {
                    let (line, status) = self.ok(&first)?;
                    out.push(line);
                    if !status.contains(Status::MORE_RESULTS) {
                        return Ok(());
                    }
                }
                Some(0xfb) => {
                    out.push(format!("FILE {}", text(&first[1..])));
                    let answer = if self.files.is_empty() { None } else { self.files.remove(0) };
                    for piece in answer.iter().flat_map(|a| a.chunks(1 << 20)) {
                        db.send(piece)?;
                    }
                    db.send(&[])?;
                }
                _ => {
                    let (follow, columns) = definitions(&first, self.caps)?;
                    if follow < columns {
                        out.push(format!("COLUMNS {columns}, not defined"));
                    }
                    for _ in 0..follow {
                        out.push(self.column(&db.packet()?)?);
                    }
                    let mut out_params = false;
                    if !self.deprecate_eof() {
                        let (line, status) = self.ok(&db.packet()?)?;
                        out.push(line);
                        // MySQL does not repeat in the EOF behind them that more follows.
                        out_params = status.contains(Status::OUT_PARAMETERS);
                        if status.contains(Status::CURSOR_EXISTS) {
                            return Ok(());
                        }
                    }
                    match self.rows(db, binary, out)? {
                        Some(status) if status.contains(Status::MORE_RESULTS) || out_params => {}
                        _ => return Ok(()),
                    }
                }
            }
        }
    }

    /// Rows up to their end; `None` if that is an error.
    pub fn rows(
        &mut self,
        db: &mut Raw,
        binary: bool,
        out: &mut Vec<String>,
    ) -> Result<Option<Status>> {
        loop {
            let packet = self.news(db, out)?;
            if packet.first() == Some(&0xff) {
                out.push(self.err(&packet)?);
                return Ok(None);
            }
            if self.ends_rows(&packet) {
                let (line, status) = self.ok(&packet)?;
                out.push(line);
                return Ok(Some(status));
            }
            out.push(Self::row(binary, &packet)?);
        }
    }

    /// COM_FIELD_LIST's definitions.
    pub fn fields(&mut self, db: &mut Raw, out: &mut Vec<String>) -> Result<()> {
        loop {
            let packet = db.packet()?;
            if packet.first() == Some(&0xff) {
                out.push(self.err(&packet)?);
                return Ok(());
            }
            if self.ends_rows(&packet) {
                out.push(self.ok(&packet)?.0);
                return Ok(());
            }
            out.push(self.column(&packet)?);
        }
    }

    /// The reply to COM_STMT_PREPARE; the statement's id and its parameters.
    pub fn prepared(&mut self, db: &mut Raw, out: &mut Vec<String>) -> Result<Option<(u32, u16)>> {
        let first = db.packet()?;
        if first.first() == Some(&0xff) {
            out.push(self.err(&first)?);
            return Ok(None);
        }
        let mut r = Reader::new(&first[1..]);
        let (id, columns, params) = (r.u32()?, r.u16()?, r.u16()?);
        r.u8()?;
        let warnings = r.u16()?;
        let left_out =
            self.caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA) && r.u8()? == 0;
        let defined = if left_out { ", not defined" } else { "" };
        out.push(format!(
            "PREPARED columns={columns} params={params} warnings={warnings}{defined}"
        ));
        for (what, n) in [("param", params), ("column", columns)] {
            for _ in 0..if left_out { 0 } else { n } {
                out.push(format!("{what} {}", self.column(&db.packet()?)?));
            }
            if n > 0 && !self.deprecate_eof() {
                out.push(self.ok(&db.packet()?)?.0);
            }
        }
        Ok(Some((id, params)))
    }
}
