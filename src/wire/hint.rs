//! What to do about an error: which right, which option, which port.

use std::fmt;

use super::{
    Error,
    endpoint::{PLAINTEXT_PORT, TLS_PORT},
    error::Kind,
    ttn_v2,
};

/// How TLS failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The certificate comes from no root that is trusted.
    UnknownCa,
    /// The certificate is no longer valid.
    Expired,
    /// The certificate is not yet valid.
    NotYetValid,
    /// The certificate is for other hosts.
    WrongName {
        /// The names in the certificate.
        names: Vec<String>,
    },
    /// The certificate is not usable for another reason.
    BadCertificate,
    /// The server does not speak TLS on this port.
    ServerIsPlaintext,
    /// The server speaks TLS on this port and we do not.
    ServerIsTls,
    /// The server ended the handshake.
    Refused,
    /// Something between made a server of TLS 1.3 speak an older version (RFC 8446 §4.1.3).
    Downgraded,
    /// The CA file cannot be read or holds no certificate.
    CaFile,
    /// This system has no trusted roots.
    NoRoots,
}

impl TlsProblem {
    fn hint(&self, section: &str, host: &str) -> String {
        match self {
            Self::UnknownCa => format!(
                "if this server has a private CA, name its certificate in {section}: `ca = \"ca.pem\"` (the CA's, not the server's own)"
            ),
            Self::Expired => "renew the certificate of the server, or set the clock of this machine".into(),
            Self::NotYetValid => "set the clock of this machine, or of the one that issued the certificate".into(),
            Self::WrongName { names } if names.is_empty() => {
                format!("the certificate has no names: issue one with the subject alternative name {host}")
            }
            Self::WrongName { names } => format!(
                "use one of the names of the certificate as the address in {section}: {}",
                names.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
            ),
            Self::BadCertificate => {
                format!("a certificate from a CA is needed, and that CA in {section}: `ca = \"ca.pem\"`")
            }
            Self::ServerIsPlaintext => format!(
                "use the TLS port (The Things Stack: {TLS_PORT}), or set `insecure = true` in {section} if the network between is yours"
            ),
            Self::ServerIsTls => {
                format!("remove `insecure = true` from {section}, or use the plaintext port ({PLAINTEXT_PORT})")
            }
            Self::Refused => {
                "check the port; a server that asks for client certificates or only speaks TLS before 1.2 is not supported".into()
            }
            Self::Downgraded => format!(
                "do not go on from this network: a proxy or an attacker stands between; check the address in {section}"
            ),
            Self::CaFile => format!("`ca` in {section} must be a file with certificates in PEM form"),
            Self::NoRoots => format!(
                "install the system's CA certificates (package ca-certificates), set SSL_CERT_FILE, or name a `ca` in {section}"
            ),
        }
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownCa => "the certificate was issued by an unknown CA",
            Self::Expired => "the certificate has expired",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::WrongName { .. } => "the certificate is for another host",
            Self::BadCertificate => "the certificate cannot be used",
            Self::ServerIsPlaintext => "the server does not speak TLS on this port",
            Self::ServerIsTls => "the server speaks TLS on this port, and `insecure = true` is set",
            Self::Refused => "the server refused the TLS handshake",
            Self::Downgraded => "something between makes the server speak an older version of TLS",
            Self::CaFile => "the CA file cannot be used",
            Self::NoRoots => "this system has no trusted CA certificates",
        })
    }
}

pub(super) fn hint(error: &Error) -> Option<String> {
    if error.method().is_some_and(ttn_v2::is)
        && let Some(hint) = ttn_v2::hint(error)
    {
        return Some(hint);
    }
    let section = format!("the {}'s section", error.side());
    Some(match error.kind() {
        Kind::Tls(problem) => problem.hint(&section, &error.endpoint().host),
        Kind::Unreachable => format!(
            "check the address in {section}, DNS and firewalls; gRPC of The Things Stack is on port {TLS_PORT} with TLS and {PLAINTEXT_PORT} without"
        ),
        Kind::Deadline | Kind::Unavailable => {
            "the same command goes on where this one stopped, once the server answers again".into()
        }
        Kind::RateLimited => format!(
            "the same command goes on later; a lower rate for the {} under [limits] keeps clear of the server's",
            error.side()
        ),
        Kind::Unauthenticated => format!(
            "check the API key in {section}: the whole key (NNSXS.…), made on this deployment, not deleted or expired"
        ),
        Kind::Denied { missing } => rights(error, missing),
        Kind::Unimplemented => format!(
            "check that {} serves this component: with one address for each, every component needs its own in {section}",
            error.endpoint()
        ),
        Kind::Protocol => format!(
            "check that {} is the gRPC port ({TLS_PORT} with TLS, {PLAINTEXT_PORT} without), not the Console's or a proxy's",
            error.endpoint()
        ),
        Kind::ForbiddenPaths(_) => "the server is of another version: these fields cannot be moved".into(),
        _ => return None,
    })
}

fn rights(error: &Error, missing: &[String]) -> String {
    let about = error.about();
    let place = match (&about.application, &about.gateway) {
        (Some(app), _) => format!("Applications > {app} > API keys"),
        (_, Some(gateway)) => format!("Gateways > {gateway} > API keys"),
        _ => "the user's or organization's API keys".into(),
    };
    if missing.is_empty() {
        return format!(
            "the API key has no rights here: make one in the {}'s Console, {place}",
            error.side()
        );
    }
    let list: Vec<_> = missing
        .iter()
        .map(|right| label(right).map_or_else(|| right.clone(), |label| format!("{right} (\"{label}\")")))
        .collect();
    format!("add to the API key, in the {}'s Console, {place}: {}", error.side(), list.join(", "))
}

/// What the Console calls a right (`config/messages.json`, `enum:RIGHT_…`); only those that a migration needs.
fn label(right: &str) -> Option<&'static str> {
    Some(match right {
        "RIGHT_APPLICATION_INFO" => "view application information",
        "RIGHT_APPLICATION_DELETE" => "delete application",
        "RIGHT_APPLICATION_DEVICES_READ" => "view devices in application",
        "RIGHT_APPLICATION_DEVICES_READ_KEYS" => "view device keys in application",
        "RIGHT_APPLICATION_DEVICES_WRITE" => "create devices in application",
        "RIGHT_APPLICATION_DEVICES_WRITE_KEYS" => "edit device keys in application",
        "RIGHT_APPLICATION_SETTINGS_API_KEYS" => "view and edit application API keys",
        "RIGHT_APPLICATION_SETTINGS_BASIC" => "edit basic application settings",
        "RIGHT_APPLICATION_SETTINGS_COLLABORATORS" => "view and edit application collaborators",
        "RIGHT_APPLICATION_SETTINGS_PACKAGES" => "view and edit application packages and associations",
        "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE" => "write downlink application traffic",
        "RIGHT_APPLICATION_TRAFFIC_READ" => "read application traffic (uplink and downlink)",
        "RIGHT_GATEWAY_INFO" => "view gateway information",
        "RIGHT_GATEWAY_SETTINGS_BASIC" => "edit basic gateway settings",
        "RIGHT_GATEWAY_READ_SECRETS" => "retrieve secrets associated with a gateway",
        "RIGHT_GATEWAY_WRITE_SECRETS" => "store secrets for a gateway",
        "RIGHT_ORGANIZATION_APPLICATIONS_CREATE" => "create an application under the organization",
        "RIGHT_USER_APPLICATIONS_CREATE" => "create an application under the user account",
        _ => return None,
    })
}
