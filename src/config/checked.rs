//! The configuration after every check: what the rest of the program works with.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use glob::Pattern;

use super::{
    address::Address, devices::Devices, diagnostic::Diagnostics, loss::known_loss, quantity::Rate,
    secret::SecretRef,
};
use crate::{
    model::{
        gateway::GatewayKey,
        ids::{AppId, DevAddrPrefix, DeviceId, Eui64, NetId},
    },
    plan::belongings::collaborator::People,
};

/// A whole migration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Where the devices are.
    pub source: Side,
    /// Where they go.
    pub target: Side,
    /// Owner of the applications that are created at the target.
    pub owner: Option<Owner>,
    /// The journal.
    pub journal: Journal,
    /// What moves, in the order of the file; at least one.
    pub applications: Vec<Application>,
    /// Gateways that are registered at the target.
    pub gateways: Option<Gateways>,
    /// What changes on the way.
    pub transform: Transform,
    /// Webhooks, pub/subs and packages on the way.
    pub integrations: Integrations,
    /// Who is who on both sides.
    pub people: People,
    /// How the run proceeds.
    pub rollout: Rollout,
    /// What happens at the source at the end.
    pub clear: Clear,
    /// Rates, deadlines and sizes.
    pub limits: Limits,
    /// What somebody should look at though the configuration can be used.
    pub warnings: Diagnostics,
}

/// One of the two stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A deployment of The Things Stack.
    Tts(Stack),
    /// The Things Network Stack V2; only as the source.
    TtnV2(TtnV2),
    /// The embedded one.
    Rehearsal(Rehearsal),
}

/// The Things Network Stack V2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TtnV2 {
    /// Who knows the handler of an application.
    pub discovery: Address,
    /// Plaintext instead of TLS to it.
    pub discovery_insecure: bool,
    /// Certificates for it, or for `handler`, as PEM; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// The handler, when discovery is not asked.
    pub handler: Option<Address>,
    /// The access key; `None` when each application has its own.
    pub access_key: Option<SecretRef>,
}

/// A deployment of The Things Stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Identity Server.
    pub identity_server: Address,
    /// Network Server.
    pub network_server: Address,
    /// Application Server.
    pub application_server: Address,
    /// Join Server.
    pub join_server: Address,
    /// Gateway Server.
    pub gateway_server: Address,
    /// Other host names by which its records call it, in lower case.
    pub known_as: Vec<String>,
    /// The API key for all calls.
    pub api_key: SecretRef,
    /// Certificate authorities, as PEM; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// Plaintext instead of TLS.
    pub insecure: bool,
    /// Servers of other clusters from which records may be read; only at the source.
    pub others: Vec<Other>,
}

/// A server of another cluster, or an external Join Server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Where it is.
    pub address: Address,
    /// Other host names by which records call it, in lower case.
    pub known_as: Vec<String>,
    /// The API key for it.
    pub api_key: SecretRef,
    /// Certificate authorities, as PEM; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// Plaintext instead of TLS.
    pub insecure: bool,
}

/// An embedded stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// True for The Things Network Stack V2, false for The Things Stack.
    pub is_ttn_v2: bool,
    /// Devices to load: one JSON object a line; of V2 a list as its handler answers it.
    pub devices: Option<PathBuf>,
    /// The application to load, as JSON.
    pub application: Option<PathBuf>,
    /// NetID of its Network Server.
    pub net_id: NetId,
    /// Its device address blocks; at least one.
    pub dev_addr_prefixes: Vec<DevAddrPrefix>,
    /// Host name by which its records call it.
    pub host: String,
    /// File that keeps what it stores.
    pub state: Option<PathBuf>,
    /// Accounts that exist besides its administrator: those of `[people]`.
    pub people: People,
    /// Calls that it allows for each method and key.
    pub rate_limit: Option<Rate>,
}

/// Who owns what is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A user ID.
    User(String),
    /// An organization ID.
    Organization(String),
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// The file.
    pub path: PathBuf,
    /// Where the key of the sealed part is; `None` for the key file beside the journal.
    pub seal_key: Option<SecretRef>,
}

/// An application to move, or all whose ID has a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its ID at the source, or the shape as it is written.
    pub source: AppId,
    /// Its ID at the target; with a shape, one `*` stands for the ID at the source.
    pub target: AppId,
    /// The shape.
    pub shape: Option<Pattern>,
    /// Which devices.
    pub devices: Devices,
    /// What is copied besides the devices.
    pub copy: Vec<Copy>,
    /// The API key at the source instead of the source's.
    pub api_key: Option<SecretRef>,
    /// The V2 access key instead of the source's.
    pub access_key: Option<SecretRef>,
}

impl Application {
    /// True when it is the application with this ID, or one of its shape.
    pub fn takes(&self, source: &AppId) -> bool {
        self.shape.as_ref().map_or(self.source == *source, |shape| shape.matches(source.as_str()))
    }

    /// The ID on the target of the application that has this ID at the source.
    pub fn target_of(&self, source: &AppId) -> AppId {
        match &self.shape {
            Some(_) => AppId::unchecked(self.target.as_str().replacen('*', source.as_str(), 1)),
            None => self.target.clone(),
        }
    }

    /// The ID at the source of the application that has this ID on the target; `None` where it would be none that it takes.
    pub fn source_of(&self, target: &AppId) -> Option<AppId> {
        let id = match &self.shape {
            Some(_) => {
                let (before, after) = self.target.as_str().split_once('*')?;
                AppId::unchecked(target.as_str().strip_prefix(before)?.strip_suffix(after)?)
            }
            None => (self.target == *target).then(|| self.source.clone())?,
        };
        self.takes(&id).then_some(id)
    }

    /// The block for the one application that it takes under this ID.
    #[must_use]
    pub fn of(&self, source: AppId) -> Self {
        Self { target: self.target_of(&source), shape: None, source, ..self.clone() }
    }
}

/// What belongs to an application besides its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Copy {
    /// Default payload formatters.
    Formatters,
    /// Webhooks.
    Webhooks,
    /// Pub/sub integrations.
    PubSubs,
    /// Application packages and their associations.
    Packages,
    /// API keys.
    ApiKeys,
    /// Collaborators.
    Collaborators,
    /// Activation settings.
    ActivationSettings,
}

impl Copy {
    /// Every kind with its word in the file.
    pub const ALL: [(&'static str, Self); 7] = [
        ("formatters", Self::Formatters),
        ("webhooks", Self::Webhooks),
        ("pubsubs", Self::PubSubs),
        ("packages", Self::Packages),
        ("api-keys", Self::ApiKeys),
        ("collaborators", Self::Collaborators),
        ("activation-settings", Self::ActivationSettings),
    ];

    /// The word for it in the file.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, copy)| *copy == self).map_or("", |(word, _)| word)
    }
}

/// Gateways that are registered at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateways {
    /// Which.
    pub which: WhichGateways,
    /// Put before every ID.
    pub id_prefix: String,
    /// API keys that are made for each.
    pub api_keys: Vec<GatewayKey>,
    /// Where these go.
    pub keys_file: PathBuf,
    /// The source's CUPS sends them to the target's.
    pub cups_redirect: bool,
    /// How long the run waits for them before sessions go along.
    pub wait: Option<Duration>,
    /// The API key at the source instead of the source's.
    pub api_key: Option<SecretRef>,
    /// No more than this.
    pub max: u64,
}

/// Which gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichGateways {
    /// By their IDs, in the file or in another, or by the shape of these.
    Chosen(Devices),
    /// All of a user or an organization.
    Owner(Owner),
    /// These, of which the source knows nothing.
    Listed(Vec<ListedGateway>),
}

/// A gateway as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGateway {
    /// Its ID.
    pub id: String,
    /// Its EUI.
    pub eui: Eui64,
    /// Its frequency plan at the target.
    pub frequency_plan: String,
    /// Its name, or nothing.
    pub name: String,
}

/// Webhooks, pub/subs and packages on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Integrations {
    /// They begin once the first device is live on the target.
    pub paused: bool,
    /// Where the new API keys of applications go; `None` when none is copied.
    pub keys_file: Option<PathBuf>,
}

/// What becomes of the source's integrations once all devices are cleared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClearIntegrations {
    /// They stay as they are.
    #[default]
    Nothing,
    /// Those that can be are paused.
    Pause,
    /// They go.
    Delete,
}

impl ClearIntegrations {
    /// Every way with its word in the file.
    pub const ALL: [(&'static str, Self); 3] =
        [("nothing", Self::Nothing), ("pause", Self::Pause), ("delete", Self::Delete)];
}

/// What becomes of the source's API keys that were copied once all devices are cleared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClearApiKeys {
    /// They stay as they are.
    #[default]
    Nothing,
    /// They expire.
    Expire,
}

impl ClearApiKeys {
    /// Every way with its word in the file.
    pub const ALL: [(&'static str, Self); 2] = [("nothing", Self::Nothing), ("expire", Self::Expire)];
}

/// What becomes of the source's gateways once all devices of the run are cleared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClearGateways {
    /// They stay as they are.
    #[default]
    Nothing,
    /// Those that the target has connected go.
    Delete,
}

impl ClearGateways {
    /// Every way with its word in the file.
    pub const ALL: [(&'static str, Self); 2] = [("nothing", Self::Nothing), ("delete", Self::Delete)];
}

/// What changes on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transform {
    /// Sessions of OTAA devices.
    pub session: SessionMode,
    /// ABP devices that start with new counters.
    pub abp_reset: BTreeSet<DeviceId>,
    /// Frequency plans by their name at the source.
    pub frequency_plans: BTreeMap<String, String>,
    /// The plan of devices that have none.
    pub default_frequency_plan: Option<String>,
    /// How device IDs change.
    pub device_id: DeviceIdRule,
    /// Attributes that every device gets.
    pub attributes: BTreeMap<String, String>,
    /// LoRaWAN version where the source does not say it, such as `MAC_V1_0_3`: the first shape that fits counts.
    pub mac_version: Vec<(Pattern, String)>,
    /// Regional parameters version where the source does not say it, such as `PHY_V1_0_3_REV_A`; alike.
    pub phy_version: Vec<(Pattern, String)>,
    /// Allowed losses, all from [`LOSSES`](super::LOSSES).
    pub allow_loss: BTreeSet<&'static str>,
}

impl Transform {
    /// True when the loss of this name ([`LOSSES`](super::LOSSES)) does not stop a device.
    pub fn allows(&self, name: &str) -> bool {
        debug_assert!(known_loss(name).is_some(), "`{name}` is not in LOSSES, so no user can allow it");
        self.allow_loss.contains(name)
    }
}

/// What happens to the session of an OTAA device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionMode {
    /// It goes along.
    Keep,
    /// It stays behind: the device must join again.
    Drop,
    /// Keep if the device address is in the target's blocks, else drop.
    #[default]
    Auto,
}

/// How device IDs change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIdRule {
    /// Text before the ID.
    pub prefix: String,
    /// What the ID is made of.
    pub from: IdFrom,
    /// True when an ID that is refused or clashes makes way for the one that is proposed.
    pub rename: bool,
}

/// What a device ID is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IdFrom {
    /// The ID at the source.
    #[default]
    Id,
    /// The DevEUI in lower case.
    Eui,
}

/// How the run proceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// Devices that are worked on at the same time, 1 to 256.
    pub in_flight: usize,
    /// The run takes no more devices of an application after so many of it failed, 1 or more.
    pub max_failures: usize,
    /// True: no other application is begun once one failed.
    pub stop: bool,
}

/// What happens at the source at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clear {
    /// What goes.
    pub mode: ClearMode,
    /// When; `None` for the default by device: seen for OTAA devices with a dropped session, else verified.
    pub when: Option<ClearWhen>,
    /// Stop before the first clear.
    pub hold: bool,
    /// How many devices the run may clear.
    pub max_devices: u64,
    /// What becomes of the integrations.
    pub integrations: ClearIntegrations,
    /// What becomes of API keys.
    pub api_keys: ClearApiKeys,
    /// What becomes of the gateways.
    pub gateways: ClearGateways,
}

/// What goes at the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClearMode {
    /// Nothing.
    Nothing,
    /// Nothing, and it stays muted.
    #[default]
    Mute,
    /// The Join, Application and Network Server records; the Identity Server's stays.
    Keys,
    /// All records.
    Delete,
}

/// When a device is cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearWhen {
    /// Once it joined or sent at the target.
    Seen,
    /// Once it was read back from the target.
    Verified,
}

/// Rates, deadlines and sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls to the source for each method; `None` to learn it from the server.
    pub source: Option<Rate>,
    /// Calls to the target for each method; `None` to learn it from the server.
    pub target: Option<Rate>,
    /// For one call.
    pub deadline: Duration,
    /// For connecting, TLS included.
    pub connect_timeout: Duration,
    /// One answer, in bytes.
    pub max_message: usize,
    /// How often a lock marker is renewed.
    pub lock_renewal: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            source: None,
            target: None,
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            max_message: 16 << 20,
            lock_renewal: Duration::from_secs(30),
        }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self { in_flight: 16, max_failures: 5, stop: false }
    }
}

impl Default for Clear {
    fn default() -> Self {
        Self {
            mode: ClearMode::default(),
            when: None,
            hold: false,
            max_devices: 1000,
            integrations: ClearIntegrations::Nothing,
            api_keys: ClearApiKeys::Nothing,
            gateways: ClearGateways::Nothing,
        }
    }
}
