//! What has to be changed in a gateway's own settings, so that it connects to the target (docs/servers.md, Gateways).

use crate::model::{gateway::GatewayKey, ids::Eui64};

/// Port of the Semtech UDP protocol, both ways.
pub const UDP_PORT: u16 = 1700;
/// Port of the LNS of LoRa Basics Station, with TLS.
pub const LNS_PORT: u16 = 8887;
/// Port of CUPS, with TLS.
pub const CUPS_PORT: u16 = 443;

/// The settings of one gateway. No secrets: a key is named by its ID and by the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its ID on the target.
    pub id: String,
    /// Its EUI, by which the target knows it.
    pub eui: Option<Eui64>,
    /// The host of the target's Gateway Server.
    pub host: String,
    /// The host of the target's CUPS.
    pub cups_host: String,
    /// API keys that were made for it: what for, and their IDs.
    pub keys: Vec<(GatewayKey, String)>,
    /// The file with these keys.
    pub keys_file: String,
    /// Certificates of the authorities of the target, when they are not those of the system.
    pub ca: Option<String>,
    /// The target takes it only with an API key: Semtech UDP has none.
    pub authenticated: bool,
    /// The source's CUPS sends it here: nothing has to be changed in it.
    pub redirected: bool,
}

impl Settings {
    /// The LNS of LoRa Basics Station (`tc.uri`).
    pub fn lns_uri(&self) -> String {
        format!("wss://{}:{LNS_PORT}", bracketed(&self.host))
    }

    /// CUPS (`cups.uri`).
    pub fn cups_uri(&self) -> String {
        cups_uri(&self.cups_host)
    }

    /// What goes into `tc.trust` and `cups.trust`.
    pub fn trust(&self) -> String {
        match &self.ca {
            Some(ca) => format!("the certificates in {ca}"),
            None => "the certificate of the public authority that signed the target's, such as ISRG Root X1"
                .to_owned(),
        }
    }

    /// Where the key for a purpose is; nothing when none was made.
    pub fn key(&self, of: GatewayKey) -> Option<&str> {
        self.keys.iter().find(|(kind, _)| *kind == of).map(|(_, id)| id.as_str())
    }
}

/// The URI of CUPS at a host.
pub fn cups_uri(host: &str) -> String {
    format!("https://{}:{CUPS_PORT}", bracketed(host))
}

/// An IPv6 address in a URI has brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
