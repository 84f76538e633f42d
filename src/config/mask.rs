//! Keeps secrets that were pasted into a configuration by mistake out of its diagnostics (promise S7).
//!
//! A file that has problems may be so broken that the parser does not see the key: so the text is masked by what it
//! looks like, and the parsed tree only adds to that.

use std::{ops::Range, sync::LazyLock};

use regex::Regex;
use toml::de::{DeTable, DeValue};

/// API keys of The Things Stack (`NNSXS.` and kin), access keys of V2, credentials in a URL, long hexadecimal keys. The
/// prefixes count wherever they are: a key that was pasted onto the end of a word is still a key.
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"N[A-Z2-7]{4}\.[A-Za-z0-9._-]+",
        r"|ttn-account-v2\.[A-Za-z0-9._-]+",
        r#"|://[^/@\s"']+@"#,
        r"|\b[0-9A-Fa-f]{32,}\b",
    ))
    .expect("a constant")
});

/// A key that is named like a secret, and the rest of its line.
static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?i)(?:key|secret|password|token)["']?[ \t]*=[ \t]*([^\r\n]*)"#).expect("a constant")
});

/// What a value looks like that only says where the secret is.
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^\{[ \t]*["']?(?:env|file|command)["']?[ \t]*=|^\{?[ \t]*\}?[ \t]*(?:#.*)?$"#)
        .expect("a constant")
});

/// `text` without anything that looks like a key or token.
pub(super) fn tokens(text: &str) -> String {
    TOKEN.replace_all(text, "[redacted]").into_owned()
}

/// True when `text` has something in it that looks like a key or token.
pub(super) fn is_token(text: &str) -> bool {
    TOKEN.is_match(text)
}

/// The source with every possible secret starred out; as many bytes and lines as before, so that spans still fit.
/// `hidden` are places that the checks found suspect.
pub(super) fn source(text: &str, tree: &DeTable<'_>, hidden: &[Range<usize>]) -> String {
    let mut spans: Vec<Range<usize>> = TOKEN.find_iter(text).map(|found| found.range()).collect();
    for found in ASSIGNED.captures_iter(text) {
        if let Some(rest) = found.get(1)
            && !REFERENCE.is_match(rest.as_str())
        {
            spans.push(rest.range());
        }
    }
    literals(tree, false, &mut spans);
    spans.extend_from_slice(hidden);
    let mut bytes = text.as_bytes().to_vec();
    for span in spans {
        let hidden = bytes.get_mut(span).into_iter().flatten();
        hidden.filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b'*');
    }
    // Spans that cut a character in two leave bytes that are no text: those are starred too.
    while let Err(error) = std::str::from_utf8(&bytes) {
        bytes[error.valid_up_to()] = b'*';
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// The spans of all strings under keys that are named like secrets, but for those that say where the secret is.
fn literals(table: &DeTable<'_>, secret: bool, spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        let name = key.get_ref().to_ascii_lowercase();
        let reference = secret && matches!(name.as_str(), "env" | "file" | "command");
        let named = ["key", "secret", "password", "token"].iter().any(|word| name.ends_with(word));
        if !reference {
            literals_in(value.get_ref(), value.span(), secret || named, spans);
        }
    }
}

fn literals_in(value: &DeValue<'_>, span: Range<usize>, secret: bool, spans: &mut Vec<Range<usize>>) {
    match value {
        DeValue::Table(table) => literals(table, secret, spans),
        DeValue::Array(array) => {
            for item in array {
                literals_in(item.get_ref(), item.span(), secret, spans);
            }
        }
        _ if secret => spans.push(span),
        _ => {}
    }
}
