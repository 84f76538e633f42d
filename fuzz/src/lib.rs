//! What is done with bytes that nobody vouches for. Each function reads them as one kind of input and checks what must
//! hold whatever they are; it panics when that does not hold.
//!
//! The fuzz targets call these functions, and so does `cargo test`, with everything in `corpus/`.

mod answers;
mod config;
mod devices;
mod events;
mod journal;
mod paths;
mod records;

pub use answers::answers;
pub use config::config;
pub use devices::{tts_csv, tts_json};
pub use events::events;
pub use journal::{journal, sealed};
pub use paths::paths;
pub use records::records;

/// Reads one input.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", config),
    ("tts_json", tts_json),
    ("tts_csv", tts_csv),
    ("journal", journal),
    ("sealed", sealed),
    ("events", events),
    ("answers", answers),
    ("records", records),
    ("paths", paths),
];

/// Gives its bytes one at a time: a reader must not care in which pieces a file comes.
struct Slowly<'a>(&'a [u8]);

impl std::io::Read for Slowly<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let most = out.len().min(1);
        std::io::Read::read(&mut self.0, &mut out[..most])
    }
}

/// The runs of exactly `length` hexadecimal digits in a text.
fn hex_runs(text: &str, length: usize) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_hexdigit()).filter(move |run| run.len() == length)
}
