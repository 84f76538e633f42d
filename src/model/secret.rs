//! Secrets: values that cannot be printed, and are wiped when dropped.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret text such as an API key. It has no `Display` and no `Serialize`; `Debug` shows `[redacted]`.
///
/// ```
/// let key = stackferry::model::secret::Secret::new("NNSXS.KEY");
/// assert_eq!(format!("{key:?}"), "[redacted]");
/// ```
/// ```compile_fail,E0277
/// let key = stackferry::model::secret::Secret::new("NNSXS.KEY");
/// let text = format!("{key}");
/// ```
/// ```compile_fail,E0277
/// let key = stackferry::model::secret::Secret::new("NNSXS.KEY");
/// let text = serde_json::to_string(&key);
/// ```
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The ID in an API key of The Things Stack, which is no secret: `NNSXS.ID.SECRET` (`pkg/auth`, `SplitToken`).
///
/// ```
/// assert_eq!(stackferry::model::secret::key_id("NNSXS.ID.SECRET"), Some("ID"));
/// assert_eq!(stackferry::model::secret::key_id("SECRET"), None);
/// ```
pub fn key_id(token: &str) -> Option<&str> {
    match *token.trim().split('.').collect::<Vec<_>>() {
        [_, id, _] => Some(id),
        _ => None,
    }
}

/// Field names whose values are keys or credentials, wherever they stand in a message of The Things Stack or V2. A test
/// (`tests/it/secrets/fields.rs`) holds every field of the protos against this list.
const SECRET_FIELDS: &[&str] = &[
    "access_key",
    "access_token",
    "app_key",
    "app_s_key",
    "authentication_code",
    "base_url",
    "claim_authentication_code",
    "data",
    "downlink_api_key",
    "encrypted_key",
    "f_nwk_s_int_key",
    "frm_payload",
    "headers",
    "kek",
    "key",
    "lbs_lns_secret",
    "nwk_key",
    "nwk_s_enc_key",
    "nwk_s_key",
    "password",
    "provisioning_data",
    "qr_code",
    "raw_payload",
    "refresh_token",
    "register_on_join_access_key",
    "root_wor_s_key",
    "s_nwk_s_int_key",
    "secret",
    "secret_access_key",
    "server_url",
    "session_secret",
    "session_token",
    "target_cups_key",
    "template_fields",
    "tls_client_key",
    "username",
];

/// True when the last field of `path`, or a message on the way to it, holds a key or credential.
pub fn is_secret_path(path: &str) -> bool {
    path.split('.').any(|segment| SECRET_FIELDS.contains(&segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_in_its_debug_text() {
        assert_eq!(format!("{:?}", Secret::new("NNSXS.ABC")), "[redacted]");
    }

    #[test]
    fn key_paths_are_secret_and_counters_are_not() {
        assert!(is_secret_path("session.keys.f_nwk_s_int_key.key"));
        assert!(is_secret_path("root_keys.app_key"));
        assert!(!is_secret_path("session.last_f_cnt_up"));
        assert!(!is_secret_path("session.keys.session_key_id"));
    }
}
