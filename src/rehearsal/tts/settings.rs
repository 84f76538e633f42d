//! What an embedded The Things Stack is told about itself.

use std::{fmt, path::PathBuf};

use super::limit::RateLimit;
use crate::model::ids::{DevAddrPrefix, Eui64, NetId};

/// User ID of the administrator, unless the settings have another.
pub const ADMIN: &str = "admin";

/// Settings of an embedded server: those of a real deployment that a migration can notice.
#[derive(Clone)]
pub struct Settings {
    /// How reports and audits call this server.
    pub name: String,
    /// The host that stands in the `*_server_address` fields of this deployment's records.
    pub host: String,
    /// NetID of its Network Server.
    pub net_id: NetId,
    /// Address blocks from which its Network Server gives DevAddrs. Others are stored, but never given.
    pub dev_addr_prefixes: Vec<DevAddrPrefix>,
    /// JoinEUI blocks that its Join Server serves: first JoinEUI and number of fixed bits.
    pub join_eui_prefixes: Vec<(Eui64, u8)>,
    /// API key of the administrator, `NNSXS.<ID>.<secret>`.
    pub api_key: String,
    /// User ID of the administrator, and the first of the users that exist.
    pub admin: String,
    /// Other users that exist: a collaborator must be one of them or an organization.
    pub users: Vec<String>,
    /// Organizations that exist. The administrator is a member of each, with all rights.
    pub organizations: Vec<String>,
    /// True when administrators have every right on everything (`is.admin-rights.all`); on a default deployment their
    /// universal rights lack those that read and write keys.
    pub admin_rights_all: bool,
    /// True when CUPS may send gateways elsewhere (`gcs.basic-station.allow-cups-uri-update`); on a default deployment it may
    /// not.
    pub allow_cups_uri_update: bool,
    /// The limit of each gRPC method, when there is one.
    pub rate_limit: Option<RateLimit>,
    /// Field-mask paths, with everything below them, that this server does not know: as a server of an older version.
    pub refused_paths: Vec<String>,
    /// File that keeps what is stored; in memory when absent.
    pub state: Option<PathBuf>,
    /// Largest message that is received, in bytes (16 MiB on a real server).
    pub max_message_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "rehearsal".to_owned(),
            host: "localhost".to_owned(),
            net_id: NetId([0; 3]),
            dev_addr_prefixes: "01000000/8".parse().into_iter().collect(),
            join_eui_prefixes: vec![(Eui64([0; 8]), 0)],
            api_key: super::auth::generate_token().0,
            admin: ADMIN.to_owned(),
            users: Vec::new(),
            organizations: Vec::new(),
            admin_rights_all: true,
            allow_cups_uri_update: false,
            rate_limit: None,
            refused_paths: Vec::new(),
            state: None,
            max_message_size: 16 << 20,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("host", &self.host)
            .field("net_id", &self.net_id)
            .field("dev_addr_prefixes", &self.dev_addr_prefixes)
            .field("rate_limit", &self.rate_limit)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// True for the administrator and the other users.
    pub(super) fn has_user(&self, id: &str) -> bool {
        self.admin == id || self.users.iter().any(|user| user == id)
    }
}
