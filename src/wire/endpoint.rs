//! Where a server is and how it is reached.

use std::{fmt, path::PathBuf};

/// Port of The Things Stack's gRPC API with TLS (`pkg/config` default `:8884`).
pub const TLS_PORT: u16 = 8884;
/// Port of the same API without TLS (`:1884`).
pub const PLAINTEXT_PORT: u16 = 1884;

/// How the connection is protected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tls {
    /// No TLS (`insecure = true`). Keys travel in clear text: for loopback and private networks.
    Plaintext,
    /// TLS; the certificate must come from a root that this system trusts.
    System,
    /// TLS; the certificates of this PEM file are trusted *as well as* the roots of the system, so that one file
    /// serves a deployment of which some components stand behind a public certificate.
    Ca(PathBuf),
}

impl Tls {
    /// The port where servers listen by default.
    pub fn default_port(&self) -> u16 {
        match self {
            Self::Plaintext => PLAINTEXT_PORT,
            Self::System | Self::Ca(_) => TLS_PORT,
        }
    }
}

/// One server of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// DNS name or IP address (IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: Tls,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It has a scheme, a path or credentials: this is gRPC, not a URL.
    #[error("`{0}` is not an address: give host or host:port alone, without scheme or path")]
    Url(String),
    /// The host is missing or not a host name.
    #[error("`{0}` has no valid host name: give host or host:port, an IPv6 address in brackets")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("`{0}` has no valid port: it is a number from 1 to 65535")]
    Port(String),
}

impl Endpoint {
    /// Reads `host[:port]` or `[IPv6][:port]`; the port is [`Tls::default_port`] where it is absent.
    pub fn parse(text: &str, tls: Tls) -> Result<Self, EndpointError> {
        let text = text.trim();
        if text.contains(['/', '@', '?', '#']) {
            return Err(EndpointError::Url(text.to_owned()));
        }
        let (host, port) = match text.strip_prefix('[').map(|t| t.split_once(']')) {
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, rest))) => (host, Some(rest.strip_prefix(':').unwrap_or("?"))),
            Some(None) => return Err(EndpointError::Host(text.to_owned())),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => tls.default_port(),
            Some(port) => {
                // `u16::from_str` takes a sign; an address does not.
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                let number = port.parse().ok().filter(|p| *p != 0 && digits);
                number.ok_or_else(|| EndpointError::Port(text.to_owned()))?
            }
        };
        let bracketed = text.starts_with('[');
        let valid = rustls_pki_types::ServerName::try_from(host).is_ok_and(|name| {
            bracketed
                == matches!(name, rustls_pki_types::ServerName::IpAddress(rustls_pki_types::IpAddr::V6(_)))
        });
        if !valid {
            return Err(EndpointError::Host(text.to_owned()));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_port_follows_the_protection() {
        let at = |text, tls| Endpoint::parse(text, tls).map(|e| e.to_string());
        assert_eq!(
            at("eu1.cloud.thethings.network", Tls::System),
            Ok("eu1.cloud.thethings.network:8884".into())
        );
        assert_eq!(at("localhost", Tls::Plaintext), Ok("localhost:1884".into()));
        assert_eq!(at(" 10.0.0.1:443 ", Tls::Ca("ca.pem".into())), Ok("10.0.0.1:443".into()));
        assert_eq!(at("[::1]", Tls::Plaintext), Ok("[::1]:1884".into()));
        assert_eq!(at("[::1]:9", Tls::Plaintext), Ok("[::1]:9".into()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        let why = |text| Endpoint::parse(text, Tls::System).expect_err(text);
        assert!(matches!(why("https://eu1.cloud.thethings.network"), EndpointError::Url(_)));
        assert!(matches!(why("user@host"), EndpointError::Url(_)));
        assert!(matches!(why(""), EndpointError::Host(_)));
        assert!(matches!(why(":8884"), EndpointError::Host(_)));
        assert!(matches!(why("[::1"), EndpointError::Host(_)));
        assert!(matches!(why("a b"), EndpointError::Host(_)));
        assert!(matches!(why("[example.org]"), EndpointError::Host(_)));
        for text in ["host:", "host:0", "host:70000", "host:+80", "::1", "[::1]8884x"] {
            assert!(matches!(why(text), EndpointError::Port(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in "\\PC{0,40}|\\[?[0-9a-f:.]{1,20}\\]?(:[0-9]{1,6})?") {
            if let Ok(endpoint) = Endpoint::parse(&text, Tls::System) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string(), Tls::System), Ok(endpoint));
            }
        }
    }
}
