//! Hash slots as in Redis Cluster: CRC16 (XMODEM) of the key, or of its hash tag, modulo 16,384.
//!
//! Source: the Redis Cluster specification, "Key distribution model" and "Hash tags".

/// Number of hash slots.
pub const SLOTS: u16 = 16_384;

/// One of the 16,384 hash slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of a key. If the key holds a non-empty `{tag}`, only the first tag counts.
    pub fn of(key: &[u8]) -> Slot {
        Slot(crc16(hash_tag(key)) % SLOTS)
    }
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    let after = key.get(open + 1..).unwrap_or_default();
    match after.iter().position(|&b| b == b'}') {
        Some(close) if close > 0 => after.get(..close).unwrap_or_default(),
        _ => key,
    }
}

/// One table for each of eight byte distances: eight bytes a step ("slicing by eight").
const TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut distance = 1;
    while distance < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[distance - 1][byte];
            tables[distance][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        distance += 1;
    }
    tables
}

fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    let mut eights = bytes.chunks_exact(8);
    for c in &mut eights {
        let [a, b, rest @ ..] = c else { continue };
        let mut next = TABLES[7][usize::from(a ^ (crc >> 8) as u8)]
            ^ TABLES[6][usize::from(b ^ (crc & 0xff) as u8)];
        for (at, byte) in rest.iter().enumerate() {
            next ^= TABLES[5 - at][usize::from(*byte)];
        }
        crc = next;
    }
    for byte in eights.remainder() {
        crc = (crc << 8) ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_published_examples() {
        // "123456789" gives 0x31C3 in the specification's reference.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(Slot::of(b"foo"), Slot(12182));
        assert_eq!(Slot::of(b"{user1000}.following"), Slot::of(b"{user1000}.followers"));
        assert_eq!(Slot::of(b"foo{}{bar}"), Slot(crc16(b"foo{}{bar}") % SLOTS));
        assert_eq!(Slot::of(b"foo{{bar}}zap"), Slot(crc16(b"{bar") % SLOTS));
        assert_eq!(Slot::of(b"foo{bar}{zap}"), Slot::of(b"bar"));
    }

    #[test]
    fn eight_bytes_a_step_agree_with_one_byte_a_step() {
        let text: Vec<u8> = (0..200u32).map(|i| (i * 37 % 251) as u8).collect();
        for len in 0..text.len() {
            let slow = text[..len]
                .iter()
                .fold(0u16, |crc, b| (crc << 8) ^ TABLES[0][usize::from((crc >> 8) as u8 ^ b)]);
            assert_eq!(crc16(&text[..len]), slow, "length {len}");
        }
    }
}
