//! The compressed protocol ("Compression", "Compressed Packet"): 3 bytes of length, 1 byte of
//! sequence id, 3 bytes of length before compression (0: it is not compressed), then packets, or
//! parts of them, compressed as a whole.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::{MAX_PAYLOAD, Malformed};

/// Bytes before a compressed packet's payload.
pub const COMPRESSED_HEADER: usize = 7;
/// What is shorter is not worth it; the servers' own `MIN_COMPRESS_LENGTH`.
const SHORTEST: usize = 50;
/// zlib can't make more bytes out of one.
const MOST_BY_ZLIB: usize = 1032;

/// How a connection is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Zlib,
    /// By the level the client asked for.
    Zstd(ZstdLevel),
}

/// 1 to 22.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZstdLevel(u8);

impl ZstdLevel {
    /// # Errors
    /// There is no such level.
    pub fn new(level: u8) -> Result<Self, Malformed> {
        match level {
            1..=22 => Ok(Self(level)),
            _ => Err(Malformed("zstd level")),
        }
    }
}

/// A compressed packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedHeader {
    /// Bytes of payload, 0 to [`MAX_PAYLOAD`].
    pub len: usize,
    pub seq: u8,
    /// Bytes it makes, 0 to [`MAX_PAYLOAD`]; 0: it is not compressed.
    pub plain_len: usize,
}

impl CompressedHeader {
    /// `None` until seven bytes are there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, seq, d, e, f] = *bytes.first_chunk::<COMPRESSED_HEADER>()?;
        Some(Self {
            len: u32::from_le_bytes([a, b, c, 0]) as usize,
            seq,
            plain_len: u32::from_le_bytes([d, e, f, 0]) as usize,
        })
    }

    fn to_bytes(self) -> [u8; COMPRESSED_HEADER] {
        let [a, b, c, _] = (self.len as u32).to_le_bytes();
        let [d, e, f, _] = (self.plain_len as u32).to_le_bytes();
        [a, b, c, self.seq, d, e, f]
    }
}

/// Compresses and decompresses for any number of connections, packet by packet; what it needs for
/// that (some 300 KiB) is therefore not the connections'.
pub struct Codec {
    deflate: Compress,
    inflate: Decompress,
    zstd: Option<Zstd>,
    level: Option<ZstdLevel>,
}

struct Zstd {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Default for Codec {
    fn default() -> Self {
        Self {
            deflate: Compress::new(Compression::new(6), true),
            inflate: Decompress::new(true),
            zstd: None,
            level: None,
        }
    }
}

impl Codec {
    /// Appends what a packet's payload stands for, exactly `header.plain_len` bytes if it is
    /// compressed; never more memory than that.
    ///
    /// # Errors
    /// It is not what the header says; `out` is then of no use.
    pub fn unpack(
        &mut self,
        algorithm: Algorithm,
        header: CompressedHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        const WRONG: Malformed = Malformed("compressed packet");
        if header.plain_len == 0 {
            out.extend_from_slice(payload);
            return Ok(());
        }
        let (before, wanted) = (out.len(), header.plain_len);
        match algorithm {
            Algorithm::Zlib => {
                if wanted > payload.len().saturating_mul(MOST_BY_ZLIB) {
                    return Err(WRONG);
                }
                out.reserve_exact(wanted);
                self.inflate.reset(true);
                let room = out.capacity() - before;
                // Room for more than it may be: if it is more, its end is not reached.
                let status = self.inflate.decompress_vec(payload, out, FlushDecompress::Finish);
                debug_assert!(out.len() - before <= room);
                match status {
                    Ok(Status::StreamEnd) => {}
                    _ if out.len() - before == wanted => {
                        // All there, but the checksum behind it could not be looked at for want of
                        // room.
                        let (read, mut none) = (self.inflate.total_in() as usize, [0; 1]);
                        let rest = payload.get(read..).ok_or(WRONG)?;
                        let ended =
                            self.inflate.decompress(rest, &mut none, FlushDecompress::Finish);
                        if !matches!(ended, Ok(Status::StreamEnd))
                            || self.inflate.total_out() as usize != wanted
                        {
                            return Err(WRONG);
                        }
                    }
                    _ => return Err(WRONG),
                }
            }
            Algorithm::Zstd(_) => {
                let mut plain = Vec::with_capacity(wanted);
                let zstd = self.zstd().ok_or(Malformed("zstd is not to be had"))?;
                zstd.decompressor.decompress_to_buffer(payload, &mut plain).map_err(|_| WRONG)?;
                plain.truncate(wanted + 1);
                out.append(&mut plain);
            }
        }
        if out.len() - before == wanted { Ok(()) } else { Err(WRONG) }
    }

    /// Appends `plain` as compressed packets, the first with sequence id `seq`; returns the next.
    pub fn pack(
        &mut self,
        algorithm: Algorithm,
        mut seq: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> u8 {
        for part in plain.chunks(MAX_PAYLOAD) {
            let start = out.len();
            out.extend_from_slice(&[0; COMPRESSED_HEADER]);
            let shorter = part.len() >= SHORTEST && self.compress(algorithm, part, out);
            let len = out.len() - start - COMPRESSED_HEADER;
            let header = if shorter && len < part.len() {
                CompressedHeader { len, seq, plain_len: part.len() }
            } else {
                out.truncate(start + COMPRESSED_HEADER);
                out.extend_from_slice(part);
                CompressedHeader { len: part.len(), seq, plain_len: 0 }
            };
            out[start..start + COMPRESSED_HEADER].copy_from_slice(&header.to_bytes());
            seq = seq.wrapping_add(1);
        }
        seq
    }

    /// Whether it could be done; not, if the outcome were longer than `part`.
    fn compress(&mut self, algorithm: Algorithm, part: &[u8], out: &mut Vec<u8>) -> bool {
        match algorithm {
            Algorithm::Zlib => {
                out.reserve(part.len());
                self.deflate.reset();
                let status = self.deflate.compress_vec(part, out, FlushCompress::Finish);
                matches!(status, Ok(Status::StreamEnd))
            }
            Algorithm::Zstd(level) => {
                let known = self.level.replace(level) == Some(level);
                let Some(zstd) = self.zstd() else { return false };
                if !known && zstd.compressor.set_compression_level(i32::from(level.0)).is_err() {
                    return false;
                }
                let Ok(mut packed) = zstd.compressor.compress(part) else { return false };
                out.append(&mut packed);
                true
            }
        }
    }

    fn zstd(&mut self) -> Option<&mut Zstd> {
        if self.zstd.is_none() {
            let compressor = zstd::bulk::Compressor::new(3).ok()?;
            let decompressor = zstd::bulk::Decompressor::new().ok()?;
            self.zstd = Some(Zstd { compressor, decompressor });
            self.level = None;
        }
        self.zstd.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn algorithms() -> [Algorithm; 4] {
        let zstd = |level| Algorithm::Zstd(ZstdLevel::new(level).unwrap());
        [Algorithm::Zlib, zstd(1), zstd(3), zstd(22)]
    }

    fn unpack_all(codec: &mut Codec, how: Algorithm, mut bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            let header = CompressedHeader::parse(bytes).unwrap();
            let end = COMPRESSED_HEADER + header.len;
            codec.unpack(how, header, &bytes[COMPRESSED_HEADER..end], &mut plain).unwrap();
            bytes = &bytes[end..];
        }
        plain
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let mut codec = Codec::default();
        let noise: Vec<u8> =
            (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for how in algorithms() {
            for plain in [&b"x"[..], &[b'x'; 49], &[b'x'; 50], &[b'x'; 100_000], &noise] {
                let mut packed = Vec::new();
                assert_eq!(codec.pack(how, 255, plain, &mut packed), 0);
                assert!(packed.len() <= plain.len() + COMPRESSED_HEADER);
                assert!(unpack_all(&mut codec, how, &packed) == plain);
            }
            let long = vec![b'x'; MAX_PAYLOAD + 10];
            let mut packed = Vec::new();
            assert_eq!(codec.pack(how, 0, &long, &mut packed), 2);
            assert!(packed.len() < long.len() / 100);
            assert!(unpack_all(&mut codec, how, &packed) == long);
        }
    }

    #[test]
    fn lengths_that_are_wrong_are_found_out() {
        let mut codec = Codec::default();
        let plain = [b'x'; 1000];
        for how in algorithms() {
            let mut packed = Vec::new();
            codec.pack(how, 0, &plain, &mut packed);
            let payload = &packed[COMPRESSED_HEADER..];
            for (cut, plain_len, good) in [
                (0, 1000, true),
                (0, 999, false),
                (0, 1001, false),
                (0, 1, false),
                (0, MAX_PAYLOAD, false),
                (1, 1000, false),
                (payload.len(), 1000, false),
            ] {
                let payload = &payload[..payload.len() - cut];
                let header = CompressedHeader { len: payload.len(), seq: 0, plain_len };
                let unpacked = codec.unpack(how, header, payload, &mut Vec::new());
                assert_eq!(unpacked.is_ok(), good, "{how:?} {cut} {plain_len}");
            }
        }
        assert!(ZstdLevel::new(0).is_err() && ZstdLevel::new(23).is_err());
    }

    proptest! {
        #[test]
        fn anything_survives(plain: Vec<u8>, repeat in 1usize..50, which in 0usize..4) {
            let plain = plain.repeat(repeat);
            let (mut codec, how) = (Codec::default(), algorithms()[which]);
            let mut packed = Vec::new();
            codec.pack(how, 7, &plain, &mut packed);
            prop_assert_eq!(unpack_all(&mut codec, how, &packed), plain);
        }

        #[test]
        fn arbitrary_bytes_never_panic(payload: Vec<u8>, plain_len in 0usize..100_000, which in 0usize..4) {
            let header = CompressedHeader { len: payload.len(), seq: 0, plain_len };
            let mut out = Vec::new();
            if Codec::default().unpack(algorithms()[which], header, &payload, &mut out).is_ok() {
                let wanted = if plain_len == 0 { payload.len() } else { plain_len };
                prop_assert_eq!(out.len(), wanted);
            }
        }
    }
}
