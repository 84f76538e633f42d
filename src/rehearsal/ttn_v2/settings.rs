//! What an embedded V2 is told about itself.

use std::{fmt, path::PathBuf, time::Duration};

use crate::model::ids::{DevAddrPrefix, NetId};

/// Settings of an embedded V2.
#[derive(Clone)]
pub struct V2Settings {
    /// How reports and audits call this network.
    pub name: String,
    /// The host in the handler's announcement, and in its certificate beside `localhost` and `127.0.0.1`.
    pub host: String,
    /// ID of the handler at discovery.
    pub handler_id: String,
    /// Its applications, with what the account server knows of them.
    pub applications: Vec<V2Application>,
    /// Calls a second for each subject and each application (5 on the real one); `None`: no limit.
    pub rate_limit: Option<u32>,
    /// NetID of its Network Server (the public network: 000013).
    pub net_id: NetId,
    /// Address blocks from which it gives DevAddrs.
    pub dev_addr_prefixes: Vec<DevAddrPrefix>,
    /// File that keeps what is stored; in memory when absent.
    pub state: Option<PathBuf>,
    /// Largest message in both directions, in bytes.
    pub max_message_size: usize,
    /// Connections are closed after this time (GOAWAY), as the real servers do with idle ones after 5 minutes.
    pub connection_age: Option<Duration>,
}

impl Default for V2Settings {
    fn default() -> Self {
        Self {
            name: "v2".to_owned(),
            host: "localhost".to_owned(),
            handler_id: "ttn-handler-rehearsal".to_owned(),
            applications: Vec::new(),
            rate_limit: None,
            net_id: NetId([0, 0, 0x13]),
            dev_addr_prefixes: "26010000/16".parse().into_iter().collect(),
            state: None,
            max_message_size: 64 << 20,
            connection_age: None,
        }
    }
}

impl fmt::Debug for V2Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("V2Settings")
            .field("name", &self.name)
            .field("host", &self.host)
            .field("dev_addr_prefixes", &self.dev_addr_prefixes)
            .field("rate_limit", &self.rate_limit)
            .finish_non_exhaustive()
    }
}

/// An application, as the account server knows it.
#[derive(Clone)]
pub struct V2Application {
    /// Its ID.
    pub id: String,
    /// Its access keys.
    pub keys: Vec<AccessKey>,
    /// True when it is registered at this handler. The account server knows others too.
    pub registered: bool,
}

impl V2Application {
    /// A registered application with these keys.
    pub fn new(id: &str, keys: Vec<AccessKey>) -> Self {
        Self { id: id.to_owned(), keys, registered: true }
    }
}

impl fmt::Debug for V2Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.len();
        f.debug_struct("V2Application").field("id", &self.id).field("keys", &keys).finish_non_exhaustive()
    }
}

/// An access key of an application.
#[derive(Clone)]
pub struct AccessKey {
    /// `ttn-account-v2.<secret>`.
    pub key: String,
    /// What it may do: `devices`, `settings`, …
    pub rights: Vec<String>,
    /// The subject of its tokens, by which the rate is limited; the ID of the application when absent.
    pub subject: Option<String>,
}

impl AccessKey {
    /// A key with these rights.
    pub fn new(key: &str, rights: &[&str]) -> Self {
        let rights = rights.iter().map(|right| (*right).to_owned()).collect();
        Self { key: key.to_owned(), rights, subject: None }
    }

    /// A new random key with these rights.
    pub fn generate(rights: &[&str]) -> Self {
        use base64::Engine as _;
        let secret =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(crate::rehearsal::random::<32>());
        Self::new(&format!("{}.{secret}", super::access::ISSUER), rights)
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("rights", &self.rights).finish_non_exhaustive()
    }
}
