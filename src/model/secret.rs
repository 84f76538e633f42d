//! Secrets: values that cannot be printed, and are wiped when dropped.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret text such as an API key. It has no `Display` and no `Serialize`; `Debug` shows `[redacted]`.
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

/// Field names whose values are keys or credentials, wherever they stand in a message of The Things Stack.
///
const SECRET_FIELDS: &[&str] = &[
    "app_key",
    "nwk_key",
    "app_s_key",
    "f_nwk_s_int_key",
    "s_nwk_s_int_key",
    "nwk_s_enc_key",
    "key",
    "encrypted_key",
    "kek",
    "claim_authentication_code",
    "authentication_code",
    "downlink_api_key",
    "headers",
    "password",
    "username",
    "tls_client_key",
    "access_key",
    "secret_access_key",
    "session_token",
    "lbs_lns_secret",
    "target_cups_key",
    "provisioning_data",
    "template_fields",
    "raw_payload",
    "frm_payload",
    "data",
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
