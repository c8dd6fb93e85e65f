//! Following a server's reply through the buffers it arrives in ("Text Resultset", "Binary Protocol
//! Resultset", "COM_STMT_PREPARE Response"; MariaDB "Progress Reporting").
//!
//! With OPTIONAL_RESULTSET_METADATA a byte behind the number of columns, and at the end of
//! COM_STMT_PREPARE_OK, says whether definitions follow (`resultset_metadata`). MySQL's documentation
//! has it before that number; servers send it behind (`Protocol_classic::start_result_metadata`). The
//! EOF packets behind definitions come where these are left out, too.

use crate::{
    Capabilities, ErrPacket, Expect, HEADER, Header, MAX_PAYLOAD, Malformed, OkPacket, Reader,
    Status,
};

/// Knows where in a reply the stream stands and when the reply is over.
///
/// Feed it whatever has arrived, split anywhere: [`Tracker::step`].
#[derive(Debug, Clone)]
pub struct Tracker {
    state: State,
    deprecate_eof: bool,
    caps: Capabilities,
    /// A cursor may have been asked for.
    cursor: bool,
    /// Bytes of the present packet still to pass on unseen.
    skip: usize,
    /// The next packet continues a payload of [`MAX_PAYLOAD`] bytes.
    continued: bool,
    /// Sequence id of the newest packet begun.
    seq: u8,
    /// The rows are OUT parameters, with which a CALL is never over; MySQL does not say so in the
    /// EOF behind them.
    out_params: bool,
    /// The definitions after COM_STMT_PREPARE_OK are left out, but for the EOF packets behind them.
    bare: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First(Expect),
    Columns {
        left: u64,
    },
    ColumnsEof,
    Rows,
    /// Definitions after COM_STMT_PREPARE_OK: parameters, then columns.
    Definitions {
        params: u16,
        columns: u16,
    },
    DefinitionsEof {
        columns: u16,
    },
    Fields,
    /// The client owes the server a file; see [`Control::LocalInfile`].
    LocalInfile,
    Done,
}

/// A packet worth looking into.
#[derive(Debug, Clone, Copy)]
pub enum Control<'a> {
    /// OK, or the OK or EOF at a result set's end (then the counters are those of the packet, or 0).
    Ok(OkPacket<'a>),
    Err(ErrPacket<'a>),
    /// COM_STMT_PREPARE_OK; its statement id stands in the buffer at [`HEADER`]` + 1`.
    Prepared {
        id: u32,
        columns: u16,
        params: u16,
    },
    /// EOF between column definitions and rows. Carries the status of a cursor.
    ColumnsEnd(Status),
    /// The server wants a local file: pass packets from the client on until an empty one, then
    /// call [`Tracker::local_infile_sent`].
    LocalInfile,
    /// The text answering COM_STATISTICS.
    Text,
    /// How far the server has got with what it was asked; it says so anywhere before the reply's end.
    Progress,
}

/// What [`Tracker::step`] found.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The first `pass` bytes may go to the client. What follows is the beginning of a packet that
    /// must be whole before it can be judged: keep it, and call again with more behind it.
    More { pass: usize },
    /// The first `pass` bytes may go to the client, then comes `control` up to `end`, which may
    /// be passed on too (or changed before). `done`: the reply is over.
    Control { pass: usize, end: usize, control: Control<'a>, done: bool },
}

impl Tracker {
    /// `caps`: what client and server agreed on, as far as it shapes replies.
    #[must_use]
    pub fn new(expect: Expect, caps: Capabilities) -> Self {
        Self {
            state: if expect == Expect::Nothing { State::Done } else { Self::first(expect) },
            deprecate_eof: caps.contains(Capabilities::DEPRECATE_EOF),
            caps,
            cursor: expect == Expect::Executed,
            skip: 0,
            continued: false,
            seq: 0,
            out_params: false,
            bare: false,
        }
    }

    fn first(expect: Expect) -> State {
        match expect {
            Expect::Rows => State::Rows,
            Expect::Fields => State::Fields,
            Expect::Executed => State::First(Expect::Results),
            other => State::First(other),
        }
    }

    /// The reply is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done && self.at_boundary()
    }

    /// Sequence id a packet of our own would need to follow the reply so far.
    #[must_use]
    pub fn next_seq(&self) -> u8 {
        self.seq.wrapping_add(1)
    }

    /// Whether every packet begun has been passed on whole, so that a packet of our own may follow.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.skip == 0 && !self.continued
    }

    /// The client's file has been sent, its last packet with sequence id `seq`.
    pub fn local_infile_sent(&mut self, seq: u8) {
        self.state = State::First(Expect::Results);
        self.seq = seq;
    }

    /// Looks at what has arrived and was not passed on before.
    pub fn step<'a>(&mut self, buf: &'a [u8]) -> Result<Step<'a>, Malformed> {
        let mut pos = 0;
        loop {
            if self.skip > 0 {
                let n = self.skip.min(buf.len() - pos);
                pos += n;
                self.skip -= n;
                if self.skip > 0 {
                    return Ok(Step::More { pass: pos });
                }
            }
            if matches!(self.state, State::Rows | State::Fields) && !self.continued {
                pos = self.pass_rows(buf, pos);
            }
            let rest = &buf[pos..];
            if self.state == State::Done && !self.continued {
                return match rest {
                    [] => Ok(Step::More { pass: pos }),
                    _ => Err(Malformed("the server sent more than it was asked for")),
                };
            }
            let Some(header) = Header::parse(rest) else { return Ok(Step::More { pass: pos }) };
            if self.continued {
                self.begin(header);
                continue;
            }
            match self.state {
                State::Columns { left } => {
                    self.begin(header);
                    self.state = self.columns(left - 1);
                    continue;
                }
                State::Rows | State::Fields if header.len > 0 => {
                    let Some(&first) = rest.get(HEADER) else {
                        return Ok(Step::More { pass: pos });
                    };
                    if first < 0xfe || !self.ends_rows(first, header.len) {
                        self.begin(header);
                        continue;
                    }
                }
                State::Definitions { params, columns } => {
                    self.begin(header);
                    self.state = self.after_definition(params, columns);
                    continue;
                }
                _ => {}
            }
            let end = HEADER + header.len;
            if rest.len() < end {
                if let State::First(Expect::Results) = self.state {
                    // An enormous single packet can't be a control packet.
                    if header.len == MAX_PAYLOAD {
                        return Err(Malformed("reply begins with a row"));
                    }
                }
                return Ok(Step::More { pass: pos });
            }
            self.seq = header.seq;
            let payload = &rest[HEADER..end];
            if let Some(control) = self.control(payload)? {
                let done = self.state == State::Done;
                return Ok(Step::Control { pass: pos, end: pos + end, control, done });
            }
            pos += end;
        }
    }

    /// Where behind `pos` the rows end that are there whole and can be nothing but rows. A result may
    /// have millions, a few dozen bytes each: a length and a first byte are all that is looked at.
    /// Whatever is out of the ordinary is left to [`Self::step`].
    fn pass_rows(&mut self, buf: &[u8], mut pos: usize) -> usize {
        let mut rest = &buf[pos..];
        while let Some((&header, payload)) = rest.split_first_chunk::<HEADER>() {
            let word = u32::from_le_bytes(header);
            let len = (word & 0x00ff_ffff) as usize;
            let ordinary = payload.first().is_some_and(|&first| first < 0xfe);
            if !ordinary || len == 0 || len >= MAX_PAYLOAD || payload.len() < len {
                break;
            }
            self.seq = header[3];
            pos += HEADER + len;
            rest = &payload[len..];
        }
        pos
    }

    fn begin(&mut self, header: Header) {
        self.skip = HEADER + header.len;
        self.continued = header.len == MAX_PAYLOAD;
        self.seq = header.seq;
    }

    fn ends_rows(&self, first: u8, len: usize) -> bool {
        match first {
            0xff => true,
            0xfe => len < if self.deprecate_eof { MAX_PAYLOAD } else { 9 },
            _ => false,
        }
    }

    /// So many definitions of columns are still to come.
    fn columns(&self, left: u64) -> State {
        match left {
            0 if self.deprecate_eof => State::Rows,
            0 => State::ColumnsEof,
            left => State::Columns { left },
        }
    }

    fn after_definition(&self, params: u16, columns: u16) -> State {
        let (params, columns, section_over) = match params {
            0 => (0, columns - 1, columns == 1),
            _ => (params - 1, columns, params == 1),
        };
        match (section_over, self.deprecate_eof) {
            (false, _) => State::Definitions { params, columns },
            (true, false) => State::DefinitionsEof { columns },
            (true, true) if columns > 0 => State::Definitions { params: 0, columns },
            (true, true) => State::Done,
        }
    }

    /// Looks into a whole packet; `None` if there is nothing in it for the session.
    fn control<'a>(&mut self, payload: &'a [u8]) -> Result<Option<Control<'a>>, Malformed> {
        let first = payload.first().copied();
        if first == Some(0xff) && self.state != State::First(Expect::Text) {
            // No error has this number: SIGNAL refuses it.
            if payload.starts_with(&[0xff; 3]) && self.caps.contains(Capabilities::MARIADB_PROGRESS)
            {
                return Ok(Some(Control::Progress));
            }
            self.state = State::Done;
            return Ok(Some(Control::Err(ErrPacket::parse(payload)?)));
        }
        match self.state {
            State::First(Expect::Results | Expect::Ok | Expect::Nothing) => match first {
                Some(0x00) => self.end(payload).map(Some),
                Some(0xfe) if payload.len() < 9 => self.end(payload).map(Some),
                Some(0xfb) if self.state == State::First(Expect::Results) => {
                    self.state = State::LocalInfile;
                    Ok(Some(Control::LocalInfile))
                }
                Some(_) if self.state == State::First(Expect::Results) => {
                    let mut r = Reader::new(payload);
                    let columns = r.lenenc()?;
                    if columns == 0 {
                        return Err(Malformed("a result set without columns"));
                    }
                    let left_out = self.definitions_are_optional() && r.u8()? == 0;
                    self.state = self.columns(if left_out { 0 } else { columns });
                    Ok(None)
                }
                _ => Err(Malformed("neither OK nor ERR")),
            },
            State::First(Expect::Prepare) => {
                let mut r = Reader::new(payload);
                if r.u8()? != 0 {
                    return Err(Malformed("neither COM_STMT_PREPARE_OK nor ERR"));
                }
                let (id, columns, params) = (r.u32()?, r.u16()?, r.u16()?);
                // Behind a filler and the number of warnings.
                self.bare = self.definitions_are_optional() && payload.get(12) == Some(&0);
                self.state = match (params, columns) {
                    (0, 0) => State::Done,
                    _ if self.bare && self.deprecate_eof => State::Done,
                    (0, _) if self.bare => State::DefinitionsEof { columns: 0 },
                    _ if self.bare => State::DefinitionsEof { columns },
                    _ => State::Definitions { params, columns },
                };
                Ok(Some(Control::Prepared { id, columns, params }))
            }
            State::First(Expect::Text) => {
                self.state = State::Done;
                Ok(Some(Control::Text))
            }
            State::First(Expect::Rows | Expect::Fields | Expect::Executed) => {
                Err(Malformed("unreachable: no such state"))
            }
            State::ColumnsEof => {
                let status = eof_status(payload)?;
                // MariaDB leaves the flag set after a stored procedure used a cursor of its own; what
                // a procedure answers always has more behind it.
                let opened = status.contains(Status::CURSOR_EXISTS)
                    && !status.contains(Status::MORE_RESULTS);
                if self.cursor && opened {
                    return self.end(payload).map(Some);
                }
                self.state = State::Rows;
                self.out_params = status.contains(Status::OUT_PARAMETERS);
                Ok(Some(Control::ColumnsEnd(status)))
            }
            State::Rows | State::Fields => self.end(payload).map(Some),
            State::DefinitionsEof { columns } => {
                self.state = match columns {
                    0 => State::Done,
                    _ if self.bare => State::DefinitionsEof { columns: 0 },
                    columns => State::Definitions { params: 0, columns },
                };
                let status = eof_status(payload)?;
                Ok(Some(Control::ColumnsEnd(status)))
            }
            State::LocalInfile => Err(Malformed("the server spoke while it was owed a file")),
            State::Columns { .. } | State::Definitions { .. } | State::Done => {
                Err(Malformed("unexpected packet"))
            }
        }
    }

    fn definitions_are_optional(&self) -> bool {
        self.caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA)
    }

    /// An OK or EOF that ends a result, and the reply unless more results follow.
    fn end<'a>(&mut self, payload: &'a [u8]) -> Result<Control<'a>, Malformed> {
        let eof = payload.first() == Some(&0xfe) && (!self.deprecate_eof || payload.len() == 5);
        let ok = if eof {
            let mut r = Reader::new(payload);
            r.u8()?;
            let warnings = r.u16()?;
            let status = Status::from_bits_retain(r.u16()?);
            OkPacket {
                affected_rows: 0,
                last_insert_id: 0,
                status,
                warnings,
                info: &[],
                state: &[],
            }
        } else {
            OkPacket::parse(payload, self.caps)?
        };
        let out_params = std::mem::take(&mut self.out_params);
        self.state = if ok.status.contains(Status::MORE_RESULTS) || out_params {
            State::First(Expect::Results)
        } else {
            State::Done
        };
        Ok(Control::Ok(ok))
    }
}

fn eof_status(payload: &[u8]) -> Result<Status, Malformed> {
    let mut r = Reader::new(payload);
    if r.u8()? != 0xfe {
        return Err(Malformed("EOF expected"));
    }
    r.u16()?;
    Ok(Status::from_bits_retain(r.u16()?))
}

#[cfg(test)]
mod tests;
