//! The file as it is written: every section and key, with its type, default, example and meaning.
//!
//! `docs/config.md` is generated from these declarations. Values are checked in `check`.

use toml::de::DeTable;

use super::read::{At, Key, Later, Many, OneOrMap, Read, Reader, Section, StringMap, section};

section! {
    /// The whole file.
    RawConfig is "file" {
        /// Where the devices are now.
        "source" source: RawSource, default "required", example "";
        /// Where they go.
        "target" target: RawTarget, default "required", example "";
        /// The record of the run.
        "journal" journal: RawJournal, default "see below", example "";
        /// What moves; one block for each application.
        "application" application: Vec<At<RawApplication>>, default "required", example "";
        /// Gateways that get a record at the target.
        "gateways" gateways: RawGateways, default "none", example "";
        /// What changes on the way.
        "transform" transform: RawTransform, default "see below", example "";
        /// Webhooks, pub/subs and packages on the way.
        "integrations" integrations: RawIntegrations, default "see below", example "";
        /// Who is who: IDs of collaborators.
        "people" people: RawPeople, default "none", example "";
        /// How fast, and when to stop.
        "rollout" rollout: RawRollout, default "see below", example "";
        /// What happens to the source at the end.
        "clear" clear: RawClear, default "see below", example "";
        /// Rates, deadlines and sizes.
        "limits" limits: RawLimits, default "see below", example "";
    }
}

section! {
    /// The stack that the devices leave. Exactly one of the tables below.
    RawSource is "table" {
        /// A The Things Stack (TTS) v3 deployment.
        "tts" tts: RawStack, default "none", example "";
        /// A The Things Stack embedded in stackferry, to rehearse.
        "rehearsal" rehearsal: RawRehearsal, default "none", example "";
        /// The Things Network Stack V2, the public network or a private one.
        "ttn-v2" ttn_v2: RawTtnV2, default "none", example "";
        /// ChirpStack: not in this release.
        "chirpstack" chirpstack: Later, default "none", example "";
        /// A file of devices: not in this release.
        "file" file: Later, default "none", example "";
    }
}

section! {
    /// The stack that the devices go to. Exactly one of the tables below.
    RawTarget is "table" {
        /// A The Things Stack (TTS) v3 deployment.
        "tts" tts: RawStack, default "none", example "";
        /// A The Things Stack embedded in stackferry, to rehearse.
        "rehearsal" rehearsal: RawRehearsal, default "none", example "";
        /// A file of devices: not in this release.
        "file" file: Later, default "none", example "";
    }
}

section! {
    /// A deployment of The Things Stack. With `address` alone all components are asked there; a component that is
    /// elsewhere has its own key. An address is `host` or `host:port`, without a scheme; the port is 8884, or 1884 with
    /// `insecure`.
    RawStack is "table" {
        /// The application, when there is but one: the default of `application.source`. Source only.
        "app-id" app_id: String, default "none", example r#""my-app""#;
        /// The deployment: the address of every component that has no key of its own.
        "address" address: String, default "required, unless every component has its own", example r#""eu1.cloud.thethings.network""#;
        /// Address of the Identity Server.
        "identity-server" identity_server: String, default "`address`", example r#""eu1.cloud.thethings.network""#;
        /// Address of the Network Server.
        "network-server" network_server: String, default "`address`", example r#""nam1.cloud.thethings.network:8884""#;
        /// Address of the Application Server.
        "application-server" application_server: String, default "`address`", example r#""nam1.cloud.thethings.network""#;
        /// Address of the Join Server.
        "join-server" join_server: String, default "`address`", example r#""nam1.cloud.thethings.network""#;
        /// Address of the Gateway Server.
        "gateway-server" gateway_server: String, default "`address`", example r#""nam1.cloud.thethings.network""#;
        /// Other host names by which the records of this deployment call it. A device whose record names a server that is
        /// neither here nor an address above belongs to another cluster.
        "known-as" known_as: Many, default "the hosts of the addresses", example r#"["tts.internal"]"#;
        /// The API key that is used for all calls.
        "api-key" api_key: Reference, default "required", example r#"{ env = "SOURCE_API_KEY" }"#;
        /// Certificates of the authorities that signed the server's certificate, as PEM.
        "ca" ca: String, default "those of the system", example r#""ca.pem""#;
        /// Plaintext instead of TLS. Keys then cross the network readable: only for a tunnel or the same machine.
        "insecure" insecure: bool, default "false", example "false";
        /// Who owns the applications that are created. Target only.
        "owner" owner: RawOwner, default "none: the target applications must exist", example r#"{ organization = "acme" }"#;
        /// Other servers that hold records of these devices, such as an external Join Server; one block for each. Source
        /// only.
        "other" other: Vec<At<RawOther>>, default "none", example "";
    }
}

section! {
    /// The Things Network Stack V2. Discovery names the handler of the application and its certificate, which alone is
    /// trusted; or `handler` names it. V2's access keys are those of one application: with several, each `[[application]]`
    /// has its own `access-key`.
    RawTtnV2 is "table" {
        /// The application, when there is but one: the default of `application.source`.
        "app-id" app_id: String, default "none", example r#""my-ttn-app""#;
        /// The access key, with the right `devices`, and `settings` for the payload functions.
        "access-key" access_key: Reference, default "required, unless every application has its own", example r#"{ env = "TTNV2_APP_ACCESS_KEY" }"#;
        /// The discovery server; the port is 1900.
        "discovery-server" discovery_server: String, default "`\"discovery.thethings.network\"`", example r#""discovery.example.com:1900""#;
        /// Plaintext instead of TLS to the discovery server, which says whom to trust: only for a tunnel or the same machine.
        "discovery-insecure" discovery_insecure: bool, default "false", example "false";
        /// Certificates for the discovery server, or for `handler`, as PEM: of an authority, or the server's own as
        /// `ttn … gen-cert` makes it.
        "ca" ca: String, default "those of the system", example r#""ca.pem""#;
        /// The handler, when discovery is not to be asked; the port is 1904.
        "handler" handler: String, default "what discovery says", example r#""handler.example.com:1904""#;
    }
}

section! {
    /// A server of another cluster or an external Join Server, from which records may be read. A device with a record at a
    /// server that is not listed is a finding that stops the device.
    RawOther is "table" {
        /// Its address.
        "address" address: String, default "required", example r#""js.example.com""#;
        /// Other host names by which records call it.
        "known-as" known_as: Many, default "the host of the address", example r#"["join.example.com"]"#;
        /// The API key for it.
        "api-key" api_key: Reference, default "required", example r#"{ env = "JOIN_API_KEY" }"#;
        /// As for the deployment.
        "ca" ca: String, default "those of the system", example r#""ca.pem""#;
        /// As for the deployment.
        "insecure" insecure: bool, default "false", example "false";
    }
}

section! {
    /// Where a secret is. Exactly one of the keys; a secret in the file itself is refused.
    RawSecret is "inline table" {
        /// The environment variable that holds it.
        "env" env: String, default "none", example r#""SOURCE_API_KEY""#;
        /// A file that holds nothing else. Others must not be able to read it (`chmod 600`).
        "file" file: String, default "none", example r#""source.key""#;
        /// A command that writes it to standard output within 30 seconds: the program and its arguments, without a
        /// shell.
        "command" command: Vec<At<String>>, default "none", example r#"["pass", "show", "tts"]"#;
    }
}

section! {
    /// The owner of what is created. Exactly one of the keys.
    RawOwner is "inline table" {
        /// A user.
        "user" user: String, default "none", example r#""jane""#;
        /// An organization.
        "organization" organization: String, default "none", example r#""acme""#;
    }
}

section! {
    /// An embedded stack that listens on loopback: real servers with the real rules, and no real devices.
    RawRehearsal is "table" {
        /// `tts`: The Things Stack; `ttn-v2`: The Things Network Stack V2, only as the source.
        "stack" stack: String, default "`\"tts\"`", example r#""ttn-v2""#;
        /// Devices to load, one JSON object a line: `{"is": …, "ns": …, "as": …, "js": …}` as the components hold them; of V2
        /// `{"devices": […]}` as its handler lists them.
        "devices" devices: String, default "none", example r#""quickstart/tts-fleet-100.jsonl""#;
        /// The application to load, as JSON.
        "application" application: String, default "none", example r#""quickstart/tts-fleet-application.json""#;
        /// NetID of its Network Server.
        "net-id" net_id: String, default "`\"000000\"`", example r#""000013""#;
        /// Blocks from which its Network Server gives device addresses.
        "dev-addr-prefixes" dev_addr_prefixes: Many, default "`[\"00000000/7\"]`", example r#"["26000000/7"]"#;
        /// The host name by which its records call it.
        "host" host: String, default "`\"127.0.0.1\"`", example r#""source.example""#;
        /// A file that keeps what it stores from one command to the next.
        "state" state: String, default "none: forgotten at the end", example r#""source.state""#;
        /// Calls that it allows for each method and key.
        "rate-limit" rate_limit: String, default "none", example r#""1000/min""#;
        /// Who owns the applications that are created. Target only.
        "owner" owner: RawOwner, default "its administrator", example r#"{ user = "admin" }"#;
    }
}

section! {
    /// The journal: one file with every step of the run, and with the sealed (encrypted) snapshots that can restore
    /// either side. Keep it until the migration is over.
    RawJournal is "table" {
        /// The file.
        "path" path: String, default "the name of the configuration with `.journal`", example r#""acme.journal""#;
        /// What the snapshots are sealed with.
        "seal-key" seal_key: Reference, default "a key file that is made beside the journal", example r#"{ env = "SEAL_KEY" }"#;
    }
}

section! {
    /// An application to move.
    RawApplication is "table" {
        /// Its ID at the source; or a shape such as `*` or `meter-*`, which takes all applications with such an ID that the API key
        /// can see, but those that another block takes: one that is named, and of two shapes that of the first block. Not with V2,
        /// whose access keys are those of one application.
        "source" source: String, default "required, unless the source names one", example r#""my-ttn-app""#;
        /// Its ID at the target, where it is created if it is absent. With a shape as `source`, one `*` stands for the ID at the
        /// source.
        "target" target: String, default "the same ID", example r#""my-app""#;
        /// Which of its devices.
        "devices" devices: RawDevices, default "all", example r#"{ glob = "meter-*" }"#;
        /// What is copied besides the devices: `formatters` (default payload formatters), `webhooks`, `pubsubs`, `packages` (those
        /// of the application and those of devices) and `activation-settings`; an empty list copies nothing. V2 has formatters
        /// alone. `collaborators` needs `[people]`; `api-keys`, which makes new secrets, has to be named here, and needs
        /// `integrations.keys-file`.
        "copy" copy: Vec<At<String>>, default "all but `api-keys`; `collaborators` only with `[people]`", example r#"["formatters", "webhooks", "api-keys"]"#;
        /// The API key for this application at the source.
        "api-key" api_key: Reference, default "that of the source", example r#"{ env = "MY_APP_API_KEY" }"#;
        /// The access key for this application, when the source is V2.
        "access-key" access_key: Reference, default "that of the source", example r#"{ env = "MY_APP_ACCESS_KEY" }"#;
    }
}

section! {
    /// Which devices. Exactly one of the keys.
    RawDevices is "inline table" {
        /// These device IDs.
        "ids" ids: Many, default "none", example r#"["meter-1", "meter-2"]"#;
        /// The device IDs in a file, one a line; empty lines and what follows `#` do not count. `-` is standard input.
        "file" file: String, default "none", example r#""device_ids.txt""#;
        /// Device IDs of this shape, or of one of these: `*` is any text, `?` any character, `[a-f]` one of these.
        "glob" glob: Many, default "none", example r#"["meter-*", "valve-0?"]"#;
    }
}

section! {
    /// Gateways that are registered at the target as they are at the source, before the devices.
    /// Exactly one of `ids`, `file`, `glob`, `owner` and, with V2 as the source, `list`. A gateway goes on where it is connected until
    /// somebody changes its own settings, or CUPS does: the summary says to what ([gateways.md](gateways.md)).
    RawGateways is "table" {
        /// These gateway IDs.
        "ids" ids: Many, default "none", example r#"["roof-1", "roof-2"]"#;
        /// The gateway IDs in a file, one a line; empty lines and what follows `#` do not count.
        "file" file: String, default "none", example r#""gateways.txt""#;
        /// Gateway IDs of this shape, or of one of these, among those that the API key of the source can list.
        "glob" glob: Many, default "none", example r#"["roof-*"]"#;
        /// All gateways of a user or an organization of the source.
        "owner" owner: RawOwner, default "none", example r#"{ organization = "acme" }"#;
        /// The gateways themselves, where the source cannot be asked for them, which is V2.
        "list" list: Vec<At<RawGateway>>, default "none", example r#"[{ id = "roof-1", eui = "58A0CBFFFE800001", frequency-plan = "EU_863_870_TTN" }]"#;
        /// How gateway IDs change.
        "id" id: RawGatewayId, default "the same ID", example r#"{ prefix = "acme-" }"#;
        /// New API keys at the target: `lns` for a gateway that connects to the LNS, `cups` for one that is managed by CUPS.
        "api-keys" api_keys: Vec<At<String>>, default "none", example r#"["lns", "cups"]"#;
        /// The file that gets the new API keys, which are sealed in the journal and nowhere else; only its owner can read it.
        "keys-file" keys_file: String, default "`\"gateway-keys.csv\"`", example r#""gateway-keys.csv""#;
        /// The API key for gateways at the source.
        "api-key" api_key: Reference, default "that of the source", example r#"{ env = "GATEWAYS_API_KEY" }"#;
        /// The source's CUPS sends the gateways that it manages to the target's. Needs `api-keys = ["lns", "cups"]`.
        "cups-redirect" cups_redirect: bool, default "false", example "true";
        /// Before the first device whose session goes along, wait until the target has all gateways connected, and no longer than this.
        "wait" wait: String, default "no wait", example r#""10m""#;
        /// Nothing is done when there are more gateways than this.
        "max-gateways" max_gateways: u64, default "100", example "100";
    }
}

section! {
    /// A gateway that the source cannot tell of.
    RawGateway is "inline table" {
        /// Its ID.
        "id" id: String, default "required", example r#""roof-1""#;
        /// Its EUI.
        "eui" eui: String, default "required", example r#""58A0CBFFFE800001""#;
        /// Its frequency plan at the target.
        "frequency-plan" frequency_plan: String, default "required", example r#""EU_863_870_TTN""#;
        /// Its name.
        "name" name: String, default "none", example r#""Roof""#;
    }
}

section! {
    /// The ID of a gateway at the target.
    RawGatewayId is "inline table" {
        /// Text before the ID.
        "prefix" prefix: String, default "none", example r#""acme-""#;
    }
}

section! {
    /// What changes on the way. All else is carried as it is, or is a finding.
    RawTransform is "table" {
        /// The session of OTAA devices: `keep`, `drop` (they must join again), or `auto`: keep if the target serves the
        /// device address. ABP and multicast devices always keep theirs.
        "session" session: String, default "`\"auto\"`", example r#""auto""#;
        /// ABP devices that will be reset by hand: only they start with new counters.
        "abp-reset" abp_reset: Many, default "none", example r#"["valve-01"]"#;
        /// Frequency plans that have another name at the target. `default` is for devices that have no plan at all.
        "frequency-plan" frequency_plan: StringMap, default "the same plan", example r#"{ "EU_863_870" = "EU_863_870_TTN" }"#;
        /// How device IDs change.
        "device-id" device_id: RawDeviceId, default "the same ID", example r#"{ prefix = "acme-", from = "id" }"#;
        /// Attributes that every device gets at the target; at most 10.
        "attributes" attributes: StringMap, default "none", example r#"{ "moved-by" = "stackferry" }"#;
        /// LoRaWAN version of devices whose source does not say it, which are those of V2. Either one for all, or a table by
        /// device IDs of a shape (`meter-*`), with the ID of the source application before a `/` where it is for that one only
        /// (`my-app/*`). Of several that fit, the longest counts; `default` is for the rest.
        "mac-version" mac_version: OneOrMap, default "`\"1.0.2\"`", example r#"{ "my-app/meter-*" = "1.0.3", default = "1.0.2" }"#;
        /// Regional parameters version of devices whose source does not say it; written alike.
        "phy-version" phy_version: OneOrMap, default "`\"1.0.2-b\"`", example r#""1.0.2-b""#;
        /// Losses that do not stop a device, by name; the names are below.
        "allow-loss" allow_loss: Many, default "none", example r#"["picture", "queued-downlinks"]"#;
    }
}

section! {
    /// The ID of a device at the target.
    RawDeviceId is "inline table" {
        /// Text before the ID.
        "prefix" prefix: String, default "none", example r#""acme-""#;
        /// `id`: the ID at the source; `eui`: the DevEUI in lower case.
        "from" from: String, default "`\"id\"`", example r#""id""#;
        /// `auto`: an ID that the target would refuse, or that two devices would get, makes way for the one that the plan proposes.
        /// `none`: such a device is a finding that stops it.
        "rename" rename: String, default "`\"none\"`", example r#""auto""#;
    }
}

section! {
    /// Webhooks, pub/subs, packages and API keys on the way ([around.md](around.md)).
    RawIntegrations is "table" {
        /// Webhooks are created paused, and pub/subs, which cannot be paused, not yet: both begin once the first device is live on
        /// the target.
        "paused" paused: bool, default "false", example "true";
        /// The file that gets the new API keys of applications, a table of old and new IDs. The keys are sealed in the journal and
        /// nowhere else; only its owner can read the file.
        "keys-file" keys_file: String, default "none; required with `api-keys` in `application.copy`", example r#""application-keys.csv""#;
    }
}

section! {
    /// Who is who: users and organizations have other IDs on the target. Collaborators of an application get the rights there that
    /// they have at the source, never more ([around.md](around.md)). A journal does not pin this: one who was missing can be added.
    RawPeople is "table" {
        /// IDs of users, at the source and on the target.
        "users" users: StringMap, default "none", example r#"{ "alice" = "alice-nl" }"#;
        /// IDs of organizations, at the source and on the target.
        "organizations" organizations: StringMap, default "none", example r#"{ "acme" = "acme-eu" }"#;
    }
}

section! {
    /// How the run proceeds.
    RawRollout is "table" {
        /// Devices that are worked on at the same time, 1 to 256.
        "in-flight" in_flight: u64, default "16", example "16";
        /// The run takes no more devices of an application after so many of it failed, 1 or more.
        "max-failures" max_failures: u64, default "5", example "5";
        /// When an application cannot be moved, or `max-failures` of its devices failed: `next`, the other applications are moved all the
        /// same; `stop`, they are not begun.
        "on-failure" on_failure: String, default "`\"next\"`", example r#""stop""#;
        /// Sizes of the batches: not in this release.
        "batches" batches: Later, default "one batch", example "";
        /// What must be seen before the next batch: not in this release.
        "gate" gate: Later, default "none", example "";
    }
}

section! {
    /// What happens at the source after a device was read back whole from the target.
    RawClear is "table" {
        /// `nothing` more than the run needs; `mute`: the source stays muted and keeps all; `keys`: the Join, Application and Network
        /// Server records go, the Identity Server's stays; `delete`: all of it goes. V2 cannot be muted: there `keys` sets the
        /// keys to zeros, and with `nothing` the copies stay muted on the target.
        "mode" mode: String, default "`\"mute\"`; `\"keys\"` for V2", example r#""keys""#;
        /// `seen`: once the device joined or sent at the target; `verified`: once it was read back.
        "when" when: String, default "`seen` for OTAA devices whose session is dropped, else `verified`", example r#""verified""#;
        /// What becomes of the source's webhooks, pub/subs and packages that were copied, once all devices of their application
        /// are cleared: `nothing`, `pause` (webhooks; pub/subs cannot be paused and go on), or `delete`.
        "integrations" integrations: String, default "`\"nothing\"`", example r#""pause""#;
        /// What becomes of the source's API keys that were copied, once all devices of their application are cleared: `nothing`, or
        /// `expire`: they are of no use any more a minute later, until a rollback gives them their time back.
        "api-keys" api_keys: String, default "`\"nothing\"`", example r#""expire""#;
        /// What becomes of the source's gateways that were registered at the target, once all devices of the run are cleared and
        /// each is connected to the target: `nothing` or `delete`.
        "gateways" gateways: String, default "`\"nothing\"`", example r#""delete""#;
        /// Stop before the first clear; the same run without it goes on.
        "hold" hold: bool, default "false", example "true";
        /// The run stops before the first clear when it would clear more devices than this.
        "max-devices" max_devices: u64, default "1000", example "1000";
    }
}

section! {
    /// Limits. A rate is a number of calls per `s`, `min` or `h`; a duration has units (`30s`, `2m`, `1h30m`).
    RawLimits is "table" {
        /// Calls to the source, for each method; of V2 all together.
        "source" source: String, default "learnt from the server's answers; `\"5/s\"` for V2", example r#""100/min""#;
        /// Calls to the target, for each method.
        "target" target: String, default "learnt from the server's answers", example r#""100/min""#;
        /// For one call.
        "deadline" deadline: String, default "`\"30s\"`", example r#""30s""#;
        /// For connecting, TLS included.
        "connect-timeout" connect_timeout: String, default "`\"10s\"`", example r#""10s""#;
        /// Size of one answer of a server.
        "max-message" max_message: String, default "`\"16MiB\"`", example r#""16MiB""#;
        /// How often a run renews its marker in the applications. `--take-over` watches a marker for three times as long.
        "lock-renewal" lock_renewal: String, default "`\"30s\"`", example r#""30s""#;
    }
}

/// A secret reference; a literal secret is refused without showing it.
pub(super) struct Reference(pub RawSecret);

impl Read for Reference {
    const KIND: &'static str = <RawSecret as Read>::KIND;
    const KEYS: &'static [Key] = <RawSecret as Read>::KEYS;
    const ABOUT: &'static str = <RawSecret as Read>::ABOUT;

    fn read(
        value: &toml::de::DeValue<'_>,
        at: &super::Place,
        path: &str,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        if value.is_table() {
            return RawSecret::read(value, at, path, reader).map(Self);
        }
        reader.hide(at);
        reader.report(
            super::Diagnostic::error(at, format!("`{path}` must not be in this file"))
                .label("a secret does not belong here")
                .help("write { env = \"NAME\" }, { file = \"PATH\" } or { command = [\"PROGRAM\", \"ARGUMENT\"] }; a key that was shared with this file should be revoked"),
        );
        None
    }
}
