//! The configuration: one TOML file, read and checked once.
//!
//! The way is `read` (TOML with the place of every value) → `raw` (every section and key) → `check` (typed values,
//! [`Config`]). Every problem of a file is found in one pass and reported with its line and a caret ([`Diagnostics`]).
//! Secrets are never in the file: it says where they are ([`SecretRef`]).

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

mod address;
mod check;
mod checked;
mod devices;
mod diagnostic;
mod env;
mod fingerprint;
mod loss;
mod mask;
mod quantity;
mod raw;
mod read;
pub mod reference;
mod secret;
#[cfg(test)]
mod tests;

pub use address::{Address, AddressError, PLAINTEXT_PORT, TLS_PORT};
pub use checked::*;
pub use devices::{Devices, ListError, Selection, read_list};
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use env::{Env, OVERRIDES, Override};
pub use fingerprint::changes;
pub use loss::{LOSSES, known_loss};
pub use quantity::{QuantityError, Rate};
pub use secret::{COMMAND_TIMEOUT, SecretError, SecretRef};

/// The largest configuration, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// How far the checks look beyond the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// Not at all.
    Text,
    /// At the files that it names, but for secrets.
    Files,
    /// At all that it names.
    Secrets,
}

impl Config {
    /// Reads and checks a configuration: its text, and that the files and variables it names are there. Connects to
    /// nothing and runs no command. Relative paths start at the folder of the file.
    ///
    /// # Errors
    /// With every problem of the file.
    pub fn load(path: &Path, env: &Env) -> Result<Self, Diagnostics> {
        Self::read(path, env, Depth::Secrets)
    }

    /// As [`Config::load`], but secrets may be missing: for commands that connect to nothing.
    ///
    /// # Errors
    /// With every problem of the file but missing secrets.
    pub fn load_offline(path: &Path, env: &Env) -> Result<Self, Diagnostics> {
        Self::read(path, env, Depth::Files)
    }

    /// The problems that the bytes of a file show by themselves. Looks at no other file and at no variable, and so gives no
    /// configuration: for whoever has a text that nobody vouches for.
    pub fn problems(path: &Path, bytes: &[u8]) -> Diagnostics {
        let nothing = Env::fixed::<String, String>([]);
        Self::parse(path, bytes, &nothing, Depth::Text).map_or_else(|found| found, |config| config.warnings)
    }

    fn read(path: &Path, env: &Env, depth: Depth) -> Result<Self, Diagnostics> {
        match read_file(path) {
            Ok(bytes) => Self::parse(path, &bytes, env, depth),
            Err(error) => {
                let problem =
                    Diagnostic::error(&Place::Whole, format!("cannot read the configuration: {error}"));
                Err(Diagnostics::new(path.to_owned(), String::new(), vec![problem]))
            }
        }
    }

    /// Checks the bytes of a file.
    fn parse(path: &Path, bytes: &[u8], env: &Env, depth: Depth) -> Result<Self, Diagnostics> {
        let text = String::from_utf8_lossy(bytes);
        let (tree, errors) = DeTable::parse_recoverable(&text);
        let syntax = syntax_errors(&text, bytes, &errors);
        let mut reader = read::Reader::new(env, !syntax.is_empty());
        let config = check::config(tree.get_ref(), path, &mut reader, depth);
        let (mut found, hidden) = reader.finish();
        // What stands in a line that could not be parsed is not what the user wrote.
        found.retain(|item| !syntax.iter().any(|error| on_same_line(&text, item, error)));
        found.extend(syntax);
        let masked = mask::source(&text, tree.get_ref(), &hidden);
        let diagnostics = Diagnostics::new(path.to_owned(), masked, found);
        match config {
            Some(config) if !diagnostics.has_errors() => Ok(Self { warnings: diagnostics, ..config }),
            _ => Err(diagnostics),
        }
    }

    /// The folder at which relative paths start.
    pub fn folder(&self) -> PathBuf {
        self.path.parent().map(Path::to_owned).unwrap_or_default()
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)? as u64 > MAX_FILE {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// What keeps the text from being TOML.
fn syntax_errors(text: &str, bytes: &[u8], errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = errors
        .iter()
        .map(|error| {
            let end = text.len();
            let span = error.span().unwrap_or(end..end);
            let found =
                Diagnostic::error(&Place::File(span.clone()), "this is not TOML").label(error.message());
            if is_bare_text(text, span.start) { found.help("text is written in quotes") } else { found }
        })
        .collect();
    if let Err(error) = std::str::from_utf8(bytes) {
        // The text up to here is the same before and after the replacement of what is no UTF-8.
        let at = error.valid_up_to();
        let place = Place::File(at..at + char::REPLACEMENT_CHARACTER.len_utf8());
        found.push(Diagnostic::error(&place, "this is not UTF-8 text"));
    }
    found
}

/// True when a value begins at `start` that is a word without quotes.
fn is_bare_text(text: &str, start: usize) -> bool {
    let (Some(before), Some(after)) = (text.get(..start), text.get(start..)) else { return false };
    before.trim_end_matches([' ', '\t']).ends_with('=')
        && after.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn on_same_line(text: &str, a: &Diagnostic, b: &Diagnostic) -> bool {
    match (&a.place, &b.place) {
        (Place::File(a), Place::File(b)) => read::same_line(text, a, b),
        _ => false,
    }
}
