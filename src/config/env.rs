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
    how: How,
}

/// What the text of a variable stands for.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The string itself.
    Text,
    /// A number or a boolean of TOML.
    Literal,
    /// The secret: this is the reference to it.
    Secret(&'static str),
    /// `true` stands for this value; anything else for nothing.
    True(&'static str),
}

/// Every variable that overrides a key, the first that is set before others of the same key. An override counts only when
/// the section that holds the key is in the file.
///
/// Those without our prefix are what users of `ttn-lw-migrate` have in their environment (docs/from-ttn-lw-migrate.md).
pub const OVERRIDES: &[Override] = &[
    new("STACKFERRY_SOURCE_ADDRESS", "source.tts.address", How::Text),
    new("STACKFERRY_SOURCE_CA", "source.tts.ca", How::Text),
    new("STACKFERRY_SOURCE_LIMIT", "limits.source", How::Text),
    new("STACKFERRY_TARGET_ADDRESS", "target.tts.address", How::Text),
    new("STACKFERRY_TARGET_CA", "target.tts.ca", How::Text),
    new("STACKFERRY_TARGET_LIMIT", "limits.target", How::Text),
    new("STACKFERRY_JOURNAL", "journal.path", How::Text),
    new("STACKFERRY_IN_FLIGHT", "rollout.in-flight", How::Literal),
    new("STACKFERRY_MAX_FAILURES", "rollout.max-failures", How::Literal),
    new("TTNV2_APP_ID", "source.ttn-v2.app-id", How::Text),
    new(
        "TTNV2_APP_ACCESS_KEY",
        "source.ttn-v2.access-key",
        How::Secret(r#"{ env = "TTNV2_APP_ACCESS_KEY" }"#),
    ),
    new("TTNV2_DISCOVERY_SERVER_ADDRESS", "source.ttn-v2.discovery-server", How::Text),
    new("TTNV2_HANDLER_ADDRESS", "source.ttn-v2.handler", How::Text),
    new("TTNV2_CA_CERT", "source.ttn-v2.ca", How::Text),
    new(FREQUENCY_PLAN, "transform.frequency-plan.default", How::Text),
    new("TTS_APP_ID", "source.tts.app-id", How::Text),
    new("TTS_APP_API_KEY", "source.tts.api-key", How::Secret(r#"{ env = "TTS_APP_API_KEY" }"#)),
    new("TTS_DEFAULT_GRPC_ADDRESS", "source.tts.address", How::Text),
    new("TTS_IDENTITY_SERVER_GRPC_ADDRESS", "source.tts.identity-server", How::Text),
    new("TTS_NETWORK_SERVER_GRPC_ADDRESS", "source.tts.network-server", How::Text),
    new("TTS_APPLICATION_SERVER_GRPC_ADDRESS", "source.tts.application-server", How::Text),
    new("TTS_JOIN_SERVER_GRPC_ADDRESS", "source.tts.join-server", How::Text),
    new("TTS_CA_FILE", "source.tts.ca", How::Text),
    new("TTS_INSECURE", "source.tts.insecure", How::True("true")),
    new("TTS_NO_SESSION", "transform.session", How::True("\"drop\"")),
];

/// The frequency plan of V2 devices, which have none of their own; counts only with a V2 source.
pub const FREQUENCY_PLAN: &str = "FREQUENCY_PLAN_ID";

const fn new(variable: &'static str, key: &'static str, how: How) -> Override {
    Override { variable, key, how }
}

impl Override {
    /// The variable's text as a TOML value; `None` when it stands for nothing. What is no TOML stays a string: then its type
    /// is the error.
    pub(super) fn value<'t>(&self, text: &'t str) -> Option<DeValue<'t>> {
        let parsed = match self.how {
            How::Text => None,
            How::Literal => DeValue::parse(text).ok(),
            How::Secret(reference) => DeValue::parse(reference).ok(),
            How::True(value) => {
                return (text == "true")
                    .then(|| DeValue::parse(value).ok())
                    .flatten()
                    .map(|v| v.into_inner());
            }
        };
        Some(parsed.map_or_else(|| DeValue::String(text.into()), |value| value.into_inner()))
    }
}
