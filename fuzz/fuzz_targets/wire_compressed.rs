//! Any bytes as compressed packets: no panic, exactly the bytes promised or an error; and what we
//! compress ourselves comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::compressed::{Algorithm, COMPRESSED_HEADER, Codec, CompressedHeader, ZstdLevel};

fuzz_target!(|data: &[u8]| {
    let Some((&how, bytes)) = data.split_first() else { return };
    let algorithm = match ZstdLevel::new(how) {
        Ok(level) => Algorithm::Zstd(level),
        Err(_) => Algorithm::Zlib,
    };
    let mut codec = Codec::default();
    if let Some(header) = CompressedHeader::parse(bytes) {
        let payload = &bytes[COMPRESSED_HEADER..];
        let payload = &payload[..payload.len().min(header.len)];
        let mut out = vec![7; 3];
        if codec.unpack(algorithm, header, payload, &mut out).is_ok() {
            let wanted = if header.plain_len == 0 { payload.len() } else { header.plain_len };
            assert_eq!(out.len(), 3 + wanted);
        }
    }
    let mut packed = Vec::new();
    codec.pack(algorithm, how, bytes, &mut packed);
    let (mut rest, mut plain) = (&packed[..], Vec::new());
    while let Some(header) = CompressedHeader::parse(rest) {
        let end = COMPRESSED_HEADER + header.len;
        codec.unpack(algorithm, header, &rest[COMPRESSED_HEADER..end], &mut plain).expect("ours");
        rest = &rest[end..];
    }
    assert_eq!(plain, bytes);
});
