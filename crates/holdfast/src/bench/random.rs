//! Seeded randomness for the load: a generator, a Zipf law and the choice of keys.
//!
//! The same seed gives the same stream on every machine. Which key is how popular does not depend
//! on the seed, so that a second run meets the same hot keys. Not fit for secrets.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream; different `stream` numbers under one seed are unrelated.
    pub fn new(seed: u64, stream: u64) -> Rng {
        Rng(mix(seed ^ mix(stream)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is above 0; the bias is below bound / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// SplitMix64's finaliser: a bijection that spreads every bit.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Ranks 1 to n with probability proportional to rank^-s, in constant time and memory.
///
/// Rejection-inversion after W. Hörmann and G. Derflinger, "Rejection-inversion to generate
/// variates from monotone discrete distributions", ACM TOMACS 6(3), 1996: `area` is the integral of
/// the density x^-s, `area_inverse` its inverse.
#[derive(Clone, Debug)]
pub struct Zipf {
    n: f64,
    s: f64,
    low: f64,
    high: f64,
    sure: f64,
}

impl Zipf {
    /// `n` ranks (at least 1) with exponent `s` above 0.
    pub fn new(n: u64, s: f64) -> Zipf {
        let mut zipf = Zipf { n: n as f64, s, low: 0.0, high: 0.0, sure: 0.0 };
        zipf.low = zipf.area(1.5) - 1.0;
        zipf.high = zipf.area(zipf.n + 0.5);
        zipf.sure = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.density(2.0));
        zipf
    }

    /// The next rank, 1 the most popular.
    pub fn rank(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.high + rng.unit() * (self.low - self.high);
            let x = self.area_inverse(u);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.sure || u >= self.area(rank + 0.5) - self.density(rank) {
                return rank as u64;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        (-self.s * x.ln()).exp()
    }

    // (x^(1-s) - 1) / (1-s), written so that it stays exact as s nears 1.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.s) * log;
        log * if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 }
    }

    fn area_inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.s)).max(-1.0);
        (y * if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 }).exp()
    }
}

/// Chooses key numbers below `n`, evenly or by popularity.
#[derive(Clone, Debug)]
pub struct Keys {
    n: u64,
    zipf: Option<Zipf>,
    stride: u64,
}

impl Keys {
    /// Keys 0 to `n` - 1; without an exponent all are equally popular.
    pub fn new(n: u64, zipf_exponent: Option<f64>) -> Keys {
        let zipf = zipf_exponent.map(|s| Zipf::new(n, s));
        Keys { n, zipf, stride: coprime_stride(n) }
    }

    /// The next key number.
    pub fn pick(&self, rng: &mut Rng) -> u64 {
        match &self.zipf {
            None => rng.below(self.n),
            Some(zipf) => self.spread(zipf.rank(rng)),
        }
    }

    /// The key that holds a popularity rank: a bijection that puts popular keys far apart.
    pub fn spread(&self, rank: u64) -> u64 {
        ((u128::from(rank) * u128::from(self.stride)) % u128::from(self.n)) as u64
    }
}

/// A number near n divided by the golden ratio that shares no factor with n.
fn coprime_stride(n: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let first = ((n as f64 * 0.618_033_988_749_895) as u64).max(1);
    (first..).find(|stride| gcd(*stride, n) == 1).unwrap_or(1)
}
