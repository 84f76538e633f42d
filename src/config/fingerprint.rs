//! What a journal pins of its configuration: a run goes on only with the same source, target, devices and rules.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use sha2::{Digest as _, Sha256};

use super::{
    checked::{
        Application, ClearApiKeys, ClearGateways, ClearIntegrations, Config, Gateways, IdFrom, Owner, Side,
        Stack, Transform, WhichGateways,
    },
    devices::Devices,
};

impl Config {
    /// The pinned settings by name, each as text or, where it is long, as number and digest. No secret and no
    /// reference to one is in it, so that a key may be renewed in the middle of a run; nor are speed, limits, allowed losses,
    /// and `clear.hold` and `clear.max-devices`, which a user may have to change to go on.
    pub fn fingerprint(&self) -> Vec<(String, String)> {
        let mut pinned = Vec::new();
        let mut pin = |name: &str, value: String| pinned.push((name.to_owned(), value));
        let folder = self.folder();
        pin("source", side(&self.source, &folder));
        pin("target", side(&self.target, &folder));
        pin("owner", self.owner.as_ref().map_or_else(String::new, owner));
        for application in &self.applications {
            let Application { source, target, devices, copy, .. } = application;
            let name = format!("application {source} to {target}");
            pin(&format!("{name}: devices"), chosen(devices));
            pin(&format!("{name}: copy"), format!("{copy:?}"));
        }
        for (name, value) in transform(&self.transform) {
            pin(name, value);
        }
        pin("clear.mode", format!("{:?}", self.clear.mode).to_lowercase());
        pin(
            "clear.when",
            self.clear.when.map_or("by device".to_owned(), |w| format!("{w:?}").to_lowercase()),
        );
        if let Some(gateways) = &self.gateways {
            pinned.extend(self::gateways(gateways));
        }
        // Only what a journal of before them does not have.
        if self.integrations.paused {
            pinned.push(("integrations.paused".to_owned(), "true".to_owned()));
        }
        if self.clear.integrations != ClearIntegrations::Nothing {
            let value = format!("{:?}", self.clear.integrations).to_lowercase();
            pinned.push(("clear.integrations".to_owned(), value));
        }
        if self.clear.api_keys != ClearApiKeys::Nothing {
            pinned.push(("clear.api-keys".to_owned(), "expire".to_owned()));
        }
        if self.clear.gateways != ClearGateways::Nothing {
            pinned.push(("clear.gateways".to_owned(), "delete".to_owned()));
        }
        pinned
    }
}

impl Config {
    /// The pinned settings and those that a user may change to go on, but that decide what a run does. No secret.
    pub fn decisive(&self) -> Vec<(String, String)> {
        let mut all = self.fingerprint();
        let losses: Vec<_> = self.transform.allow_loss.iter().map(ToString::to_string).collect();
        all.extend([
            ("transform.allow-loss".to_owned(), losses.join(" ")),
            ("people.users".to_owned(), pairs(&self.people.users)),
            ("people.organizations".to_owned(), pairs(&self.people.organizations)),
            ("clear.hold".to_owned(), self.clear.hold.to_string()),
            (
                "gateways.cups-redirect".to_owned(),
                self.gateways.as_ref().is_some_and(|g| g.cups_redirect).to_string(),
            ),
            ("clear.max-devices".to_owned(), self.clear.max_devices.to_string()),
        ]);
        all
    }
}

/// What differs between the fingerprint that a journal pins and another, one sentence for each setting.
pub fn changes(pinned: &[(String, String)], now: &[(String, String)]) -> Vec<String> {
    let value = |list: &[(String, String)], name: &str| {
        list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let shown = |value: &str| if value.is_empty() { "not set".to_owned() } else { format!("`{value}`") };
    let mut changes = Vec::new();
    for (name, old) in pinned {
        match value(now, name) {
            Some(new) if new == *old => {}
            Some(new) => changes.push(format!("{name} was {} and is now {}", shown(old), shown(&new))),
            None => changes.push(format!("{name} was {} and is gone", shown(old))),
        }
    }
    for (name, new) in now {
        if value(pinned, name).is_none() {
            changes.push(format!("{name} is new: {}", shown(new)));
        }
    }
    changes
}

fn side(side: &Side, folder: &Path) -> String {
    match side {
        Side::Tts(stack) => format!("tts {}", addresses(stack)),
        Side::TtnV2(v2) => {
            let at = v2.handler.as_ref().map_or_else(|| v2.discovery.to_string(), ToString::to_string);
            format!("ttn-v2 {at}")
        }
        Side::Rehearsal(rehearsal) => {
            let prefixes: Vec<String> = rehearsal.dev_addr_prefixes.iter().map(ToString::to_string).collect();
            let v2 = if rehearsal.is_ttn_v2 { "ttn-v2 " } else { "" };
            let mut text =
                format!("rehearsal {v2}{} {} {}", rehearsal.host, rehearsal.net_id, prefixes.join(" "));
            let files = [
                ("devices", &rehearsal.devices),
                ("application", &rehearsal.application),
                ("state", &rehearsal.state),
            ];
            for (name, file) in files {
                if let Some(file) = file {
                    // The folder may be called in another way the next time.
                    let file = file.strip_prefix(folder).unwrap_or(file);
                    let _ = write!(text, " {name}={}", file.display());
                }
            }
            text
        }
    }
}

/// The address, and those of components that are elsewhere.
fn addresses(stack: &Stack) -> String {
    let all = [
        ("network-server", &stack.network_server),
        ("application-server", &stack.application_server),
        ("join-server", &stack.join_server),
        ("gateway-server", &stack.gateway_server),
    ];
    let mut text = stack.identity_server.to_string();
    for (name, address) in all.into_iter().filter(|(_, address)| **address != stack.identity_server) {
        let _ = write!(text, " {name}={address}");
    }
    text
}

fn owner(owner: &Owner) -> String {
    match owner {
        Owner::User(id) => format!("user {id}"),
        Owner::Organization(id) => format!("organization {id}"),
    }
}

fn chosen(devices: &Devices) -> String {
    match devices {
        Devices::All => "all".to_owned(),
        Devices::Stdin => "standard input".to_owned(),
        Devices::Ids(ids) | Devices::File { ids, .. } => short(ids.iter().map(|id| id.as_str())),
        Devices::Glob(globs) => globs.iter().map(|glob| glob.as_str()).collect::<Vec<_>>().join(" "),
    }
}

fn gateways(gateways: &Gateways) -> Vec<(String, String)> {
    let which = match &gateways.which {
        WhichGateways::Chosen(devices) => chosen(devices),
        WhichGateways::Owner(of) => owner(of),
        WhichGateways::Listed(list) => {
            let all: Vec<_> =
                list.iter().map(|g| format!("{} {} {}", g.id, g.eui, g.frequency_plan)).collect();
            short(all.iter().map(String::as_str))
        }
    };
    let keys = gateways.api_keys.iter().map(|key| key.word()).collect::<Vec<_>>();
    let pinned = [
        ("gateways", which),
        ("gateways.id", gateways.id_prefix.clone()),
        ("gateways.api-keys", keys.join(" ")),
    ];
    pinned.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn transform(transform: &Transform) -> Vec<(&'static str, String)> {
    let versions = |versions: &[(glob::Pattern, String)]| {
        versions.iter().map(|(shape, version)| format!("{shape}={version}")).collect::<Vec<_>>().join(" ")
    };
    let from = if transform.device_id.from == IdFrom::Eui { "eui" } else { "id" };
    let rename = if transform.device_id.rename { " rename" } else { "" };
    let optional = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![
        ("transform.session", format!("{:?}", transform.session).to_lowercase()),
        ("transform.abp-reset", short(transform.abp_reset.iter().map(|id| id.as_str()))),
        ("transform.frequency-plan", pairs(&transform.frequency_plans)),
        ("transform.frequency-plan.default", optional(&transform.default_frequency_plan)),
        ("transform.device-id", format!("{}{from}{rename}", transform.device_id.prefix)),
        ("transform.attributes", pairs(&transform.attributes)),
        ("transform.mac-version", versions(&transform.mac_version)),
        ("transform.phy-version", versions(&transform.phy_version)),
    ]
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

/// A few names as they are, many as number and digest.
fn short<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let text = names.join(" ");
    if names.len() <= 5 {
        return text;
    }
    let digest = hex::encode(Sha256::digest(text));
    format!("{} IDs, digest {}", names.len(), &digest[..12])
}
