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
    /// TLS; nothing but the certificates of this PEM text is trusted, also one that is a CA and the server's own at once: what
    /// a V2 handler has announced of itself, and what was named for a V2 server.
    Pinned(String),
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
    use super::*;

    #[test]
    fn an_ipv6_address_is_shown_in_brackets() {
        let at = |host: &str| Endpoint { host: host.to_owned(), port: 8884, tls: Tls::System }.to_string();
        assert_eq!(at("::1"), "[::1]:8884");
        assert_eq!(at("localhost"), "localhost:8884");
    }
}
