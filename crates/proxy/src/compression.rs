//! The compressed protocol between a socket (or its TLS) and the protocol proper.
//!
//! Holds nothing while nothing is under way; what compressing takes is the worker's.

use std::cell::RefCell;
use std::io;
use std::task::{Poll, ready};

use pointsman_wire::compressed::{Algorithm, COMPRESSED_HEADER, Codec, CompressedHeader};

thread_local! {
    static CODEC: RefCell<Codec> = RefCell::default();
}

/// Bytes that are compressed as one packet, so that a long reply is not held twice.
const PART: usize = 1 << 20;
/// A buffer longer than this is not kept for later.
const KEEP: usize = 16 << 10;

/// One connection's compression.
#[derive(Debug)]
pub struct Compression {
    algorithm: Algorithm,
    /// Sequence id of the next packet, from whichever side: it counts on.
    seq: u8,
    /// Read and not yet unpacked: less than a packet, or what came behind one.
    packed: Vec<u8>,
    /// Unpacked, and from where on not yet read.
    plain: Vec<u8>,
    at: usize,
}

impl Compression {
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, seq: 0, packed: Vec::new(), plain: Vec::new(), at: 0 }
    }

    /// Whether something is there already; perhaps not enough.
    pub fn has_more(&self) -> bool {
        self.at < self.plain.len() || !self.packed.is_empty()
    }

    /// Fills `space` with what `read` brings, unpacked; 0 is the end. One packet at a time, so that
    /// the sequence id stays the one of the command that is answered.
    pub fn poll_read(
        &mut self,
        space: &mut [u8],
        mut read: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.at < self.plain.len() {
                let rest = &self.plain[self.at..];
                let n = rest.len().min(space.len());
                space[..n].copy_from_slice(&rest[..n]);
                self.at += n;
                if self.at == self.plain.len() {
                    self.at = 0;
                    emptied(&mut self.plain);
                }
                return Poll::Ready(Ok(n));
            }
            if self.unpack_one()? {
                continue;
            }
            let n = ready!(read(space))?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
            self.packed.extend_from_slice(&space[..n]);
        }
    }

    /// Unpacks the next packet, if it is all there.
    fn unpack_one(&mut self) -> io::Result<bool> {
        let Some(header) = CompressedHeader::parse(&self.packed) else { return Ok(false) };
        let end = COMPRESSED_HEADER + header.len;
        let Some(payload) = self.packed.get(COMPRESSED_HEADER..end) else { return Ok(false) };
        CODEC
            .with_borrow_mut(|codec| codec.unpack(self.algorithm, header, payload, &mut self.plain))
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.seq = header.seq.wrapping_add(1);
        self.packed.drain(..end);
        if self.packed.is_empty() {
            emptied(&mut self.packed);
        }
        Ok(true)
    }

    /// The beginning of `bytes`, packed; shortens it.
    pub fn pack(&mut self, bytes: &mut &[u8]) -> Vec<u8> {
        let (part, rest) = bytes.split_at(bytes.len().min(PART));
        *bytes = rest;
        let mut out = Vec::new();
        self.seq =
            CODEC.with_borrow_mut(|codec| codec.pack(self.algorithm, self.seq, part, &mut out));
        out
    }
}

fn emptied(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_wire::compressed::ZstdLevel;
    use proptest::prelude::*;

    fn read_all(
        mut reader: Compression,
        pieces: &mut dyn Iterator<Item = Vec<u8>>,
        space: usize,
    ) -> io::Result<Vec<u8>> {
        let (mut space, mut got) = (vec![0; space], Vec::new());
        loop {
            let read = |space: &mut [u8]| {
                let piece = pieces.next().unwrap_or_default();
                space[..piece.len()].copy_from_slice(&piece);
                Poll::Ready(Ok(piece.len()))
            };
            match reader.poll_read(&mut space, read) {
                Poll::Ready(Ok(0)) => return Ok(got),
                Poll::Ready(Ok(n)) => got.extend_from_slice(&space[..n]),
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => unreachable!(),
            }
        }
    }

    proptest! {
        #[test]
        fn every_split_is_read_alike(
            messages in prop::collection::vec(prop::collection::vec(0u8..4, 0..300), 1..6),
            piece in 1usize..40,
            space in 40usize..100,
            zstd: bool,
        ) {
            let how = if zstd { Algorithm::Zstd(ZstdLevel::new(3).unwrap()) } else { Algorithm::Zlib };
            let mut writer = Compression::new(how);
            let mut packed = Vec::new();
            for message in &messages {
                let mut rest = &message[..];
                while !rest.is_empty() {
                    packed.extend(writer.pack(&mut rest));
                }
            }
            let mut pieces = packed.chunks(piece).map(<[u8]>::to_vec);
            let got = read_all(Compression::new(how), &mut pieces, space).unwrap();
            prop_assert_eq!(got, messages.concat());
        }

        #[test]
        fn rubbish_ends_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut pieces = bytes.chunks(16).map(<[u8]>::to_vec);
            let _ = read_all(Compression::new(Algorithm::Zlib), &mut pieces, 64);
        }
    }

    #[test]
    fn nothing_is_held_when_nothing_is_under_way() {
        let mut writer = Compression::new(Algorithm::Zlib);
        let long = vec![b'x'; 300_000];
        let packed = writer.pack(&mut &long[..]);
        let mut reader = Compression::new(Algorithm::Zlib);
        let mut left = &packed[..];
        let mut space = [0; 4096];
        let mut got = 0;
        while got < long.len() {
            let Poll::Ready(Ok(n)) = reader.poll_read(&mut space, |space| {
                let n = left.len().min(space.len());
                space[..n].copy_from_slice(&left[..n]);
                left = &left[n..];
                Poll::Ready(Ok(n))
            }) else {
                panic!("not read")
            };
            got += n;
        }
        assert!(!reader.has_more());
        assert!(reader.plain.capacity() <= KEEP && reader.packed.capacity() <= KEEP);
    }
}
