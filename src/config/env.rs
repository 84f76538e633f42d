//! The environment: where secrets may be, and variables that override keys of the file.

use std::{collections::BTreeMap, env, fmt};

use toml::de::DeValue;

/// Environment variables: those of the process, or fixed ones.
#[derive(Clone)]
pub struct Env(Option<BTreeMap<String, String>>);

impl Env {
    /// The variables of this process, looked up when they are needed.
    pub fn process() -> Self {
        Self(None)
    }

    /// These variables and no others.
    pub fn fixed<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(Some(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }

    /// The value of a variable; `None` also when it is not Unicode.
    pub fn get(&self, name: &str) -> Option<String> {
        match &self.0 {
            Some(fixed) => fixed.get(name).cloned(),
            // Rust panics on names that no variable can have.
            None if name.is_empty() || name.contains(['=', '\0']) => None,
            None => env::var(name).ok(),
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env([redacted])")
    }
}

/// A variable that takes the place of a key of the file.
#[derive(Debug, Clone, Copy)]
pub struct Override {
    /// Name of the variable.
    pub variable: &'static str,
    /// Dotted name of the key.
    pub key: &'static str,
    /// True when the text of the variable is a TOML number or boolean; false when it is the string itself.
    pub literal: bool,
}

/// Every variable that overrides a key. An override counts only when the section that holds the key is in the file.
pub const OVERRIDES: &[Override] = &[
    text("STACKFERRY_SOURCE_ADDRESS", "source.tts.address"),
    text("STACKFERRY_SOURCE_CA", "source.tts.ca"),
    text("STACKFERRY_SOURCE_LIMIT", "limits.source"),
    text("STACKFERRY_TARGET_ADDRESS", "target.tts.address"),
    text("STACKFERRY_TARGET_CA", "target.tts.ca"),
    text("STACKFERRY_TARGET_LIMIT", "limits.target"),
    text("STACKFERRY_JOURNAL", "journal.path"),
    literal("STACKFERRY_IN_FLIGHT", "rollout.in-flight"),
    literal("STACKFERRY_MAX_FAILURES", "rollout.max-failures"),
];

const fn text(variable: &'static str, key: &'static str) -> Override {
    Override { variable, key, literal: false }
}

const fn literal(variable: &'static str, key: &'static str) -> Override {
    Override { variable, key, literal: true }
}

impl Override {
    /// The variable's text as a TOML value. What is no TOML stays a string: then its type is the error.
    pub(super) fn value<'t>(&self, text: &'t str) -> DeValue<'t> {
        let parsed = self.literal.then(|| DeValue::parse(text).ok()).flatten();
        parsed.map_or_else(|| DeValue::String(text.into()), |value| value.into_inner())
    }
}
