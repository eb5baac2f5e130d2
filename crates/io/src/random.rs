//! Randomness as an argument: the operating system's for identities and hash seeds, a seeded
//! generator for everything that must be repeatable.
//! Same seed, same sequence, on every machine and in every release: simulator seeds are kept.
//! `SeededRandom` is not for secrets.

use std::fs;
use std::io::{self, Read};

/// A source of random bits.
pub trait Random: Send {
    /// 64 uniformly distributed bits.
    fn next_u64(&mut self) -> u64;

    /// Fills the buffer with random bytes.
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// A number from 0 to `bound - 1`, without bias (Lemire, "Fast random integer generation in
    /// an interval", 2019). Panics when `bound` is zero: there is no such number.
    fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        // Low halves under 2^64 mod bound belong to intervals that are one element too full.
        let overfull = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= overfull {
                return (product >> 64) as u64;
            }
        }
    }

    /// True with the given probability: never at 0.0 or less, always at 1.0 or more.
    fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits are the precision of a double: a uniform value in [0, 1).
        let uniform = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        uniform < probability
    }
}

/// The operating system's random source (`/dev/urandom`).
#[derive(Debug)]
pub struct OsRandom {
    source: fs::File,
}

impl OsRandom {
    /// Opens the source; fails where there is none, for example in a bare chroot.
    pub fn new() -> io::Result<Self> {
        Ok(Self { source: fs::File::open("/dev/urandom")? })
    }
}

impl Random for OsRandom {
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Panics when the kernel refuses to read its own random device, which an open descriptor
    /// rules out: no caller could go on with predictable bytes.
    fn fill(&mut self, buffer: &mut [u8]) {
        self.source.read_exact(buffer).expect("an open /dev/urandom always yields bytes");
    }
}

/// A repeatable generator: xoshiro256** (Blackman and Vigna, 2018), seeded through SplitMix64.
#[derive(Debug, Clone)]
pub struct SeededRandom {
    state: [u64; 4],
}

impl SeededRandom {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        let mut seed = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut seed)) }
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }

    /// One of the items, or none where there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            return None;
        }
        items.get(self.below(items.len() as u64) as usize)
    }
}

impl Random for SeededRandom {
    fn next_u64(&mut self) -> u64 {
        let [mut a, mut b, mut c, mut d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = b << 17;
        c ^= a;
        d ^= b;
        b ^= c;
        a ^= d;
        c ^= shifted;
        d = d.rotate_left(45);
        self.state = [a, b, c, d];
        result
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generators_give_their_published_sequences() {
        let mut seed = 1_234_567;
        let mixed: Vec<u64> = (0..3).map(|_| split_mix(&mut seed)).collect();
        assert_eq!(
            mixed,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );

        let mut random = SeededRandom { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..4).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [11_520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn the_same_seed_repeats_and_another_differs() {
        let draw = |seed| {
            let mut random = SeededRandom::new(seed);
            let mut bytes = [0; 21];
            random.fill(&mut bytes);
            let mut order: Vec<u32> = (0..50).collect();
            random.shuffle(&mut order);
            (bytes, order, random.pick(b"abcdefgh").copied(), random.chance(0.5))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn below_reaches_every_number_about_equally_and_none_above() {
        let mut random = SeededRandom::new(1);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[random.below(6) as usize] += 1;
        }
        // Standard deviation is about 91; 500 is more than five of them.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn chance_keeps_its_probability_and_its_ends() {
        let mut random = SeededRandom::new(2);
        let hits = (0..10_000).filter(|_| random.chance(0.25)).count();
        assert!(hits.abs_diff(2_500) < 250, "{hits}");
        assert!((0..1_000).all(|_| random.chance(1.0)));
        assert!((0..1_000).all(|_| !random.chance(0.0)));
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_picking_from_nothing_is_none() {
        let mut random = SeededRandom::new(3);
        let mut items: Vec<u32> = (0..100).collect();
        random.shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        assert_eq!(random.pick::<u32>(&[]), None);
    }

    #[test]
    fn the_operating_system_gives_different_bytes_each_time() {
        let mut random = OsRandom::new().expect("this machine has a random device");
        let (mut first, mut second) = ([0; 32], [0; 32]);
        random.fill(&mut first);
        random.fill(&mut second);
        assert_ne!(first, second);
        assert_ne!(first, [0; 32]);
    }
}
