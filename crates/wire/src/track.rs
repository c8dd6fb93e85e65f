//! Following a server's reply through the buffers it arrives in ("Text Resultset", "Binary Protocol
//! Resultset", "COM_STMT_PREPARE Response").

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
                    self.state = match left - 1 {
                        0 if self.deprecate_eof => State::Rows,
                        0 => State::ColumnsEof,
                        left => State::Columns { left },
                    };
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
                    let left = Reader::new(payload).lenenc()?;
                    if left == 0 {
                        return Err(Malformed("a result set without columns"));
                    }
                    self.state = State::Columns { left };
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
                self.state = match (params, columns) {
                    (0, 0) => State::Done,
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
mod tests {
    use super::*;
    use crate::{err_packet, ok_packet, write_packet};
    use proptest::prelude::*;

    /// Everything a tracker says about a reply fed in pieces of the given sizes.
    fn follow(
        reply: &[u8],
        expect: Expect,
        caps: Capabilities,
        cuts: &[usize],
    ) -> (Vec<String>, Vec<u8>) {
        let mut tracker = Tracker::new(expect, caps);
        let (mut seen, mut passed, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = reply;
        let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
        while !rest.is_empty() {
            let n = cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len());
            pending.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            loop {
                match tracker.step(&pending).expect("well-formed") {
                    Step::More { pass } => {
                        passed.extend_from_slice(&pending[..pass]);
                        pending.drain(..pass);
                        break;
                    }
                    Step::Control { end, control, done, .. } => {
                        seen.push(format!("{control:?} {done}"));
                        passed.extend_from_slice(&pending[..end]);
                        pending.drain(..end);
                    }
                }
            }
        }
        assert!(tracker.is_done(), "not done after {seen:?}");
        (seen, passed)
    }

    fn eof(out: &mut Vec<u8>, seq: u8, status: Status) -> u8 {
        let [a, b] = status.bits().to_le_bytes();
        write_packet(out, seq, &[0xfe, 0, 0, a, b])
    }

    fn end_of_rows(out: &mut Vec<u8>, seq: u8, status: Status, caps: Capabilities) -> u8 {
        if caps.contains(Capabilities::DEPRECATE_EOF) {
            let [a, b] = status.bits().to_le_bytes();
            write_packet(out, seq, &[0xfe, 0, 0, a, b, 0, 0])
        } else {
            eof(out, seq, status)
        }
    }

    fn result_set(
        out: &mut Vec<u8>,
        mut seq: u8,
        rows: &[Vec<u8>],
        status: Status,
        caps: Capabilities,
    ) -> u8 {
        seq = write_packet(out, seq, &[2]);
        seq = write_packet(out, seq, b"\x03def one");
        seq = write_packet(out, seq, b"\x03def two");
        if !caps.contains(Capabilities::DEPRECATE_EOF) {
            seq = eof(out, seq, Status::AUTOCOMMIT);
        }
        for row in rows {
            seq = write_packet(out, seq, row);
        }
        end_of_rows(out, seq, status, caps)
    }

    fn both() -> [Capabilities; 2] {
        [Capabilities::DEPRECATE_EOF, Capabilities::empty()]
    }

    #[test]
    fn every_split_of_every_reply_is_followed_alike() {
        for caps in both() {
            let more = Status::AUTOCOMMIT | Status::MORE_RESULTS;
            let mut results = Vec::new();
            let rows = [vec![1, b'a', 0xfb], vec![0xfd; 30], vec![0; 9]];
            let seq = result_set(&mut results, 1, &rows, more, caps);
            let seq = ok_packet(&mut results, seq, more);
            let seq = result_set(&mut results, seq, &[], more, caps);
            err_packet(&mut results, seq, 1064, "42000", "no");

            let mut prepared = Vec::new();
            let mut seq = write_packet(&mut prepared, 1, &[0, 9, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0]);
            for section in [2, 1] {
                for _ in 0..section {
                    seq = write_packet(&mut prepared, seq, b"\x03def x");
                }
                if !caps.contains(Capabilities::DEPRECATE_EOF) {
                    seq = eof(&mut prepared, seq, Status::empty());
                }
            }
            let mut fields = Vec::new();
            let seq = write_packet(&mut fields, 1, b"\x03def x");
            end_of_rows(&mut fields, seq, Status::AUTOCOMMIT, caps);
            let mut text = Vec::new();
            write_packet(&mut text, 1, b"\xffUptime: 1");

            for (reply, expect) in [
                (results, Expect::Results),
                (prepared, Expect::Prepare),
                (fields, Expect::Fields),
                (text, Expect::Text),
            ] {
                let whole = follow(&reply, expect, caps, &[]);
                assert_eq!(whole.1, reply);
                for at in 1..reply.len() {
                    assert_eq!(
                        follow(&reply, expect, caps, &[at]),
                        whole,
                        "{expect:?} cut at {at}"
                    );
                }
                assert_eq!(follow(&reply, expect, caps, &vec![1; reply.len()]), whole);
            }
        }
    }

    #[test]
    fn a_row_over_16_mib_may_begin_and_go_on_with_anything() {
        for caps in both() {
            let mut reply = Vec::new();
            let mut row = vec![0xfe; MAX_PAYLOAD + 5];
            row[MAX_PAYLOAD] = 0xff; // first byte of the continuation
            result_set(&mut reply, 1, &[row, vec![0xfe; MAX_PAYLOAD]], Status::AUTOCOMMIT, caps);
            assert_eq!(follow(&reply, Expect::Results, caps, &[70_000, 16_000_000]).1, reply);
        }
    }

    #[test]
    fn a_cursor_ends_the_reply_before_the_rows() {
        let mut reply = Vec::new();
        let seq = write_packet(&mut reply, 1, &[1]);
        let seq = write_packet(&mut reply, seq, b"\x03def x");
        eof(&mut reply, seq, Status::CURSOR_EXISTS);
        follow(&reply, Expect::Executed, Capabilities::empty(), &[3]);
    }

    #[test]
    fn a_procedure_with_a_cursor_of_its_own_ends_nothing() {
        for expect in [Expect::Results, Expect::Executed] {
            let status = Status::CURSOR_EXISTS | Status::MORE_RESULTS;
            let mut reply = Vec::new();
            let seq = write_packet(&mut reply, 1, &[1]);
            let seq = write_packet(&mut reply, seq, b"\x03def x");
            let seq = eof(&mut reply, seq, status);
            let seq = write_packet(&mut reply, seq, b"\x011");
            let seq = eof(&mut reply, seq, status);
            ok_packet(&mut reply, seq, Status::CURSOR_EXISTS);
            follow(&reply, expect, Capabilities::empty(), &[3]);
        }
    }

    #[test]
    fn a_local_file_is_asked_for_and_answered() {
        let mut tracker = Tracker::new(Expect::Results, Capabilities::empty());
        let mut ask = Vec::new();
        write_packet(&mut ask, 1, b"\xfb/tmp/file");
        let step = tracker.step(&ask).unwrap();
        assert!(matches!(step, Step::Control { control: Control::LocalInfile, done: false, .. }));
        tracker.local_infile_sent(4);
        assert_eq!(tracker.next_seq(), 5);
        let mut ok = Vec::new();
        ok_packet(&mut ok, 5, Status::AUTOCOMMIT);
        assert!(matches!(tracker.step(&ok).unwrap(), Step::Control { done: true, .. }));
    }

    #[test]
    fn a_server_that_talks_on_is_malformed() {
        let mut tracker = Tracker::new(Expect::Ok, Capabilities::empty());
        let mut reply = Vec::new();
        let seq = ok_packet(&mut reply, 1, Status::AUTOCOMMIT);
        ok_packet(&mut reply, seq, Status::AUTOCOMMIT);
        let Step::Control { end, .. } = tracker.step(&reply).unwrap() else { panic!() };
        assert!(tracker.step(&reply[end..]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..6usize) {
            let expect = [Expect::Results, Expect::Ok, Expect::Prepare, Expect::Fields, Expect::Rows, Expect::Text][kind];
            for caps in both() {
                let mut tracker = Tracker::new(expect, caps);
                let mut rest = &bytes[..];
                loop {
                    match tracker.step(rest) {
                        Ok(Step::Control { end, .. }) => rest = &rest[end..],
                        Ok(Step::More { pass }) => { prop_assert!(pass <= rest.len()); break }
                        Err(_) => break,
                    }
                }
            }
        }
    }
}
