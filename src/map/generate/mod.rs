//! Generated messages and devices for tests and rehearsals: the same seed always gives the same message.
//!
//! [`message`] fills any message with anything that its types allow; [`device()`] makes a device that a real stack would
//! take and in which every path that can be set is set.

mod arbitrary;
mod device;
#[cfg(test)]
mod tests;
mod valid;

pub use arbitrary::{field, message};
pub use valid::valid;

pub use device::{APPLICATION, HOST, UNREACHED, Variant, device, records};

/// A small reproducible random number generator (SplitMix64): good enough to vary tests, never for keys.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts a sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included; `low` when the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).saturating_add(1);
        low.saturating_add(self.number() % span.max(1))
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// Random bytes, of which at least the first is not zero.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|i| self.between(u64::from(i == 0), 255) as u8).collect()
    }

    /// One of a list; `None` when it is empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.between(0, list.len().saturating_sub(1) as u64) as usize)
    }
}
