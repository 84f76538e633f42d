//! Host and port of a server.

use std::{fmt, net::Ipv6Addr};

/// Port of gRPC over TLS at The Things Stack.
pub const TLS_PORT: u16 = 8884;
/// Port of plaintext gRPC at The Things Stack.
pub const PLAINTEXT_PORT: u16 = 1884;
/// Port of discovery of V2.
pub const DISCOVERY_PORT: u16 = 1900;
/// Port of a handler of V2.
pub const HANDLER_PORT: u16 = 1904;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Host name in lower case or IP address; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text is no address, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct AddressError {
    /// What is wrong.
    pub problem: &'static str,
    /// The address that was probably meant.
    pub instead: Option<String>,
}

impl Address {
    /// Reads `host`, `host:port` or `[IPv6]:port`.
    ///
    /// # Errors
    /// For a scheme, a path, credentials, a port that is none, or characters that no host name has.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let fail = |problem| AddressError { problem, instead: bare(text) };
        if text.contains("://") {
            return Err(fail("an address has no scheme"));
        }
        if text.contains('@') {
            return Err(fail("an address has no user name"));
        }
        if text.contains(['/', '?', '#']) {
            return Err(fail("an address has no path"));
        }
        let (host, port) = split(text).ok_or_else(|| fail("this is no host"))?;
        let port = match port {
            None => default_port,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => {
                    return Err(AddressError {
                        problem: "a port is a number from 1 to 65535",
                        instead: None,
                    });
                }
            },
        };
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// True when the host is this machine.
    pub fn is_loopback(&self) -> bool {
        let ip: Result<std::net::IpAddr, _> = self.host.parse();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// Host and port text of an address without scheme.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    is_host(host).then_some((host, port))
}

/// True for an IPv4 address or a host name (RFC 1123 §2.1, with underscores, which private networks use).
pub fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

/// What is left of a URL without scheme, credentials and path, when that is an address.
fn bare(text: &str) -> Option<String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split(['/', '?', '#']).next()?;
    split(rest).map(|_| rest.to_owned())
}

impl fmt::Display for Address {
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

    proptest! {
        #[test]
        fn an_address_survives_text(text in "[a-zA-Z0-9.:/@_\\[\\]-]{0,24}") {
            if let Ok(address) = Address::parse(&text, TLS_PORT) {
                prop_assert_eq!(Address::parse(&address.to_string(), 1), Ok(address));
            }
        }
    }

    #[test]
    fn ports_have_a_default() {
        let parse = |text| Address::parse(text, TLS_PORT).map(|a| a.to_string());
        assert_eq!(parse("EU1.example.com").as_deref(), Ok("eu1.example.com:8884"));
        assert_eq!(parse("localhost:1884").as_deref(), Ok("localhost:1884"));
        assert_eq!(parse("::1").as_deref(), Ok("[::1]:8884"));
        assert_eq!(parse("[::1]:9").as_deref(), Ok("[::1]:9"));
    }

    #[test]
    fn a_url_is_refused_with_the_fix() {
        let error = Address::parse("https://me:secret@eu1.example.com:443/console", 1).expect_err("a URL");
        assert_eq!(error.problem, "an address has no scheme");
        assert_eq!(error.instead.as_deref(), Some("eu1.example.com:443"));
        assert!(Address::parse("eu1.example.com/", 1).is_err());
        assert!(Address::parse("host:0", 1).is_err());
        assert!(Address::parse("host:port", 1).is_err());
        assert!(Address::parse("", 1).is_err());
        assert!(Address::parse("two words", 1).is_err());
    }
}
