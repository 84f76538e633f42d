//! What is said when the program itself is wrong. A panic text can hold what was being worked on (the value that a field
//! did not take, the text that was cut in a character), and that can be a key: so only the place and the first words
//! are said.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::Write as _,
    panic::{self, PanicHookInfo},
};

/// From now on panics are reported by this module.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        let mut text = said(info);
        // Only with RUST_BACKTRACE; it has places and no values.
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            text.push_str(&trace.to_string());
        }
        // Nobody is left to be told when even this fails.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }));
}

fn said(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    let words = match info.payload_as_str().map(harmless) {
        Some(words) if !words.is_empty() => format!(": {words}"),
        _ => String::new(),
    };
    format!(
        "error: this is a fault of stackferry{place}{words}\n  help: please report it with this line; the same command goes on where this one stopped\n"
    )
}

/// The first words, as long as they are plain ones: what is written in the source begins so, and keys do not.
fn harmless(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_lowercase() || matches!(c, ' ' | '-' | ',' | ';')));
    let words = text[..end.unwrap_or(text.len())].trim_end();
    if words.contains(' ') { words } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_words_are_said() {
        for (text, words) in [
            ("a key: Err(\"2B7E151628AED2A6\")", "a key"),
            ("called `Result::unwrap()` on an `Err` value: Secret", ""),
            ("byte index 1 is not a char boundary; it is inside 'ö' of `öKEY`", "byte index"),
            ("the step has an end", "the step has an end"),
            ("2B7E151628AED2A6ABF7158809CF4F3C is no key", ""),
            ("NNSXS.ABCDEF.GHI is no key", ""),
            ("key 2B7E151628AED2A6", ""),
            ("", ""),
        ] {
            assert_eq!(harmless(text), words, "{text}");
        }
    }
}
