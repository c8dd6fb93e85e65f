//! Four bytes with a given CRC-32 (IEEE 802.3): the sum is a bijection on inputs of that length.

const POLYNOMIAL: u32 = 0xedb8_8320;

/// The bytes whose CRC-32 is `sum`.
#[must_use]
pub fn preimage(sum: u32) -> [u8; 4] {
    // Run the shift register backwards from the final state to the initial one, all ones; what had
    // to be fed in is the input.
    let mut state = !sum;
    for _ in 0..32 {
        state = if state & 0x8000_0000 != 0 { (state ^ POLYNOMIAL) << 1 | 1 } else { state << 1 };
    }
    (state ^ !0).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn preimages_have_the_sum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        for sum in [0, 1, 7, 1000, u32::MAX, 0xcbf4_3926, 123_456_789] {
            assert_eq!(crc32(&preimage(sum)), sum);
        }
    }
}
