//! The journal of real runs: whatever happens to its files, its disk, its key or its lock, the answer is an error with a
//! name or the history as it was written.

mod image;
mod reader;
mod runs;
mod sweep;
mod tamper;

/// Numbers that look random and are the same in every run (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one case of a seed.
    pub fn new(seed: u64, case: usize) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ case as u64);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `below`, or 0.
    pub fn roll(&mut self, below: usize) -> usize {
        (self.next() % below.max(1) as u64) as usize
    }

    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

/// OTAA with its session kept, OTAA and ABP go over, one at a time, and are cleared at the source.
const CONFIG: &str = "[transform]\nsession = \"keep\"\n[rollout]\nin-flight = 1\n[clear]\nmode = \"keys\"\n";

/// The number that names a whole sweep: `STACKFERRY_SEED`, or 1.
pub fn seed() -> u64 {
    std::env::var("STACKFERRY_SEED").ok().map_or(1, |text| text.parse().expect("a number in STACKFERRY_SEED"))
}
