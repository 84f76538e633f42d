//! Who calls, and what they may do: the handler's exchange of an access key for a token, with a list of keys in place of
//! the account server (`core/component/auth.go`, `validateTTNAuthAppContext` in `core/handler/manager_server.go`).

use tonic::{Code, Status, metadata::MetadataMap};

use super::settings::V2Settings;

/// The only auth server, which stands before the dot of an access key.
pub(super) const ISSUER: &str = "ttn-account-v2";

/// What a token says.
pub(super) struct Access {
    /// The application of the call, and of the token.
    pub application: String,
    /// By which the rate is limited.
    pub subject: String,
    rights: Vec<String>,
}

impl Access {
    /// Refuses a call without a right.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` that names the right.
    pub fn need(&self, right: &str) -> Result<(), Status> {
        if self.has(right) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "permission denied: No \"{right}\" rights to Application \"{}\"",
            self.application
        )))
    }

    pub fn has(&self, right: &str) -> bool {
        self.rights.iter().any(|own| own == right)
    }
}

/// Exchanges the key in the metadata for what it may do.
///
/// # Errors
/// As the handler answers: what the account server says comes as `UNKNOWN`. There are no JWTs to be had here, so that
/// every `token` is a bad one, and one that is empty spoils a good key.
pub(super) fn check(
    settings: &V2Settings,
    application: &str,
    metadata: &MetadataMap,
) -> Result<Access, Status> {
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    let token = text("token");
    let bad_token = || {
        Status::permission_denied(
            "permission denied: unable to parse token: token contains an invalid number of segments",
        )
    };
    if token.is_some_and(|token| !token.is_empty()) {
        return Err(bad_token());
    }
    let missing = || Status::invalid_argument("Metadata not valid: neither token nor key present");
    let access = exchange(settings, application, text("key").ok_or_else(missing)?)?;
    if token.is_some() { Err(bad_token()) } else { Ok(access) }
}

fn exchange(settings: &V2Settings, application: &str, key: &str) -> Result<Access, Status> {
    let secret = match key.split_once('.') {
        Some((ISSUER, secret)) => secret,
        Some((issuer, _)) => {
            return Err(Status::new(Code::Unknown, format!("Auth server \"{issuer}\" not registered")));
        }
        // The handler puts its first auth server before it.
        None => key,
    };
    let unknown = |text: &str| Status::new(Code::Unknown, text);
    let known = settings.applications.iter().find(|known| known.id == application);
    let known = known.ok_or_else(|| unknown("Application not found"))?;
    let same = |own: &str| own.split_once('.').map_or(own, |(_, secret)| secret) == secret;
    let key = known.keys.iter().find(|own| same(&own.key)).ok_or_else(|| unknown("Invalid access key"))?;
    Ok(Access {
        application: application.to_owned(),
        subject: key.subject.clone().unwrap_or_else(|| application.to_owned()),
        rights: key.rights.clone(),
    })
}
