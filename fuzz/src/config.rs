//! The configuration, by its text alone: no variable and no other file is looked at, and no command is run.

use std::path::Path;

use stackferry::config::{Config, Place};

/// A text as a configuration. Every problem lies inside it, can be shown, and shows no secret.
pub fn config(data: &[u8]) {
    let found = Config::problems(Path::new("migration.toml"), data);
    // What is no UTF-8 is shown, and counted, as what stands for it.
    let text = String::from_utf8_lossy(data);
    let lines = text.matches('\n').count() + 1;
    for item in found.iter() {
        let own = match &item.place {
            Place::File(span) => Some(span),
            _ => None,
        };
        for span in own.into_iter().chain(item.also.iter().map(|(span, _)| span)) {
            assert!(text.get(span.clone()).is_some(), "{span:?} is not in the file: {}", item.message);
        }
        if let Some((line, column)) = found.position(item) {
            assert!((1..=lines).contains(&line) && column >= 1, "{line}:{column}");
        }
    }
    let shown = [found.render(false), found.render(true), format!("{found:?}")];
    for secret in tokens(&text).chain(literals(&text).iter().map(String::as_str)) {
        assert!(shown.iter().all(|shown| !shown.contains(secret)), "a secret is shown: {secret}");
    }
}

/// API keys of The Things Stack that stand by themselves, wherever they are.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("NNSXS.").filter_map(|(at, prefix)| {
        let before = text[..at].chars().next_back();
        let after = &text[at + prefix.len()..];
        let end =
            after.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit())).unwrap_or(after.len());
        let alone = before.is_none_or(|c| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_');
        (alone && end >= 16).then(|| &text[at..at + prefix.len() + end])
    })
}

/// Texts that were written in the place of a secret, in a file that is TOML, and nowhere else in it.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(table) = toml::from_str::<toml::Table>(text) {
        table.iter().for_each(|(key, value)| collect(key, value, &mut found));
    }
    let plain = |literal: &String| literal.len() >= 12 && literal.chars().all(|c| c.is_ascii_alphanumeric());
    found.retain(|literal| plain(literal) && text.matches(literal.as_str()).count() == 1);
    found
}

fn collect(key: &str, value: &toml::Value, found: &mut Vec<String>) {
    match value {
        toml::Value::String(text) if matches!(key, "api-key" | "seal-key" | "access-key") => {
            found.push(text.clone());
        }
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| collect(key, value, found)),
        toml::Value::Array(items) => items.iter().for_each(|item| collect("", item, found)),
        _ => {}
    }
}
