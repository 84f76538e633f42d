//! Journal, transform, rollout, clear and limits.

use std::{cmp::Reverse, collections::BTreeMap, path::Path};

use glob::Pattern;

use super::{
    super::{
        checked::{
            Clear, ClearApiKeys, ClearGateways, ClearIntegrations, ClearMode, ClearWhen, DeviceIdRule,
            IdFrom, Journal, Limits, Rollout, SessionMode, Transform,
        },
        loss::LOSSES,
        quantity,
        raw::{RawClear, RawDeviceId, RawJournal, RawLimits, RawRollout, RawTransform},
        read::{At, OneOrMap, StringMap, join},
    },
    Checker,
};
use crate::{model::ids::is_id, proto};

/// The name in a table of what counts where nothing else fits.
const DEFAULT: &str = "default";
/// The longest frequency plan ID (`end_device.proto`).
const MAX_PLAN: usize = 64;
/// The most attributes of a device, and the longest value in characters (`end_device.proto`).
const MAX_ATTRIBUTES: usize = 10;
const MAX_ATTRIBUTE: usize = 200;
/// More devices at the same time only wait for each other at any server's rate limit.
const MAX_IN_FLIGHT: u64 = 256;

impl Checker<'_, '_> {
    pub(super) fn journal(&mut self, raw: RawJournal, config: &Path) -> Journal {
        let path = self.output(raw.path, "journal.path");
        let seal_key = self.secret(raw.seal_key, "journal.seal-key");
        Journal { path: path.unwrap_or_else(|| config.with_extension("journal")), seal_key }
    }

    pub(super) fn transform(&mut self, raw: RawTransform) -> Transform {
        let session = [("keep", SessionMode::Keep), ("drop", SessionMode::Drop), ("auto", SessionMode::Auto)];
        let session = raw.session.and_then(|raw| self.choice(&raw, "transform.session", &session));
        let (frequency_plans, default_frequency_plan) = self.plans(raw.frequency_plan);
        let losses: Vec<_> = LOSSES.iter().map(|(name, _)| (*name, *name)).collect();
        let allowed = raw.allow_loss.map(|raw| raw.value.0).unwrap_or_default();
        Transform {
            session: session.unwrap_or_default(),
            abp_reset: raw
                .abp_reset
                .map(|raw| self.device_ids(raw.value, "transform.abp-reset"))
                .unwrap_or_default(),
            frequency_plans,
            default_frequency_plan,
            device_id: raw.device_id.map(|raw| self.device_id(raw.value)).unwrap_or_default(),
            attributes: self.attributes(raw.attributes),
            mac_version: self.versions(raw.mac_version, "transform.mac-version", "MAC"),
            phy_version: self.versions(raw.phy_version, "transform.phy-version", "PHY"),
            allow_loss: allowed
                .iter()
                .filter_map(|name| self.choice(name, "transform.allow-loss", &losses))
                .collect(),
        }
    }

    /// Versions by the shape of device IDs, the longest shape first. `kind` is `MAC` or `PHY`.
    fn versions(&mut self, raw: Option<At<OneOrMap>>, path: &str, kind: &str) -> Vec<(Pattern, String)> {
        let pairs = match raw {
            None => return Vec::new(),
            Some(At { value: OneOrMap::Map(StringMap(pairs)), .. }) => pairs,
            Some(At { value: OneOrMap::One(text), at }) => {
                vec![(At { value: DEFAULT.to_owned(), at: at.clone() }, At { value: text, at })]
            }
        };
        let mut versions = Vec::new();
        for (shape, text) in pairs {
            let is_default = shape.value == DEFAULT;
            let key = if is_default { path.to_owned() } else { join(path, &shape.value) };
            let shape = At { value: if is_default { "*".to_owned() } else { shape.value }, at: shape.at };
            let pattern = self.parsed(Some(shape), path, Pattern::new);
            let version = self.parsed(Some(text), &key, |text| version(kind, text));
            if let (Some(pattern), Some(version)) = (pattern, version) {
                versions.push((is_default, pattern, version));
            }
        }
        versions.sort_by_key(|(is_default, pattern, _)| (*is_default, Reverse(pattern.as_str().len())));
        versions.into_iter().map(|(_, pattern, version)| (pattern, version)).collect()
    }

    fn plans(&mut self, raw: Option<At<StringMap>>) -> (BTreeMap<String, String>, Option<String>) {
        let mut plans = BTreeMap::new();
        for (from, to) in raw.map(|raw| raw.value.0).unwrap_or_default() {
            for name in [&from, &to] {
                if name.value.is_empty()
                    || name.value.len() > MAX_PLAN
                    || name.value.contains(char::is_whitespace)
                {
                    let label = "a frequency plan is called like `EU_863_870_TTN`";
                    self.error(
                        &name.at,
                        "`transform.frequency-plan` holds what is no frequency plan",
                        label,
                        "",
                    );
                }
            }
            plans.insert(from.value, to.value);
        }
        let default = plans.remove(DEFAULT);
        (plans, default)
    }

    fn device_id(&mut self, raw: RawDeviceId) -> DeviceIdRule {
        let from = raw.from.and_then(|raw| {
            self.choice(&raw, "transform.device-id.from", &[("id", IdFrom::Id), ("eui", IdFrom::Eui)])
        });
        let from = from.unwrap_or_default();
        let rest = if from == IdFrom::Eui { "0000000000000000" } else { "000" };
        let prefix = self.parsed(raw.prefix, "transform.device-id.prefix", |prefix| {
            if is_id(&format!("{prefix}{rest}")) {
                Ok(prefix.to_owned())
            } else {
                Err("an ID that starts so is not valid: 36 characters of a-z, 0-9 and single dashes between them")
            }
        });
        let renames = [("none", false), ("auto", true)];
        let rename = raw.rename.and_then(|raw| self.choice(&raw, "transform.device-id.rename", &renames));
        DeviceIdRule { prefix: prefix.unwrap_or_default(), from, rename: rename.unwrap_or_default() }
    }

    fn attributes(&mut self, raw: Option<At<StringMap>>) -> BTreeMap<String, String> {
        let Some(At { value: StringMap(pairs), at }) = raw else { return BTreeMap::new() };
        if pairs.len() > MAX_ATTRIBUTES {
            self.error(&at, format!("a device has at most {MAX_ATTRIBUTES} attributes"), "", "");
        }
        for (name, value) in &pairs {
            if !is_id(&name.value) {
                let label = "3 to 36 of a-z, 0-9 and single dashes between them";
                self.error(&name.at, format!("`{}` is not the name of an attribute", name.value), label, "");
            }
            if value.value.chars().count() > MAX_ATTRIBUTE {
                self.error(&value.at, format!("an attribute has at most {MAX_ATTRIBUTE} characters"), "", "");
            }
        }
        pairs.into_iter().map(|(name, value)| (name.value, value.value)).collect()
    }

    pub(super) fn rollout(&mut self, raw: RawRollout) -> Rollout {
        let help = "take it out; devices move in one batch, and `rollout.max-failures` stops it";
        self.later(raw.batches, "rollout.batches", help);
        self.later(raw.gate, "rollout.gate", help);
        let default = Rollout::default();
        let in_flight = self.number(raw.in_flight, "rollout.in-flight", 1, MAX_IN_FLIGHT);
        let max_failures = self.number(raw.max_failures, "rollout.max-failures", 1, u64::from(u32::MAX));
        let ways = [("next", false), ("stop", true)];
        let stop = raw.on_failure.and_then(|raw| self.choice(&raw, "rollout.on-failure", &ways));
        let size = |number: Option<u64>, default| number.and_then(|n| n.try_into().ok()).unwrap_or(default);
        Rollout {
            in_flight: size(in_flight, default.in_flight),
            max_failures: size(max_failures, default.max_failures),
            stop: stop.unwrap_or(default.stop),
        }
    }

    pub(super) fn clear(&mut self, raw: RawClear) -> Clear {
        let modes = [
            ("nothing", ClearMode::Nothing),
            ("mute", ClearMode::Mute),
            ("keys", ClearMode::Keys),
            ("delete", ClearMode::Delete),
        ];
        let default = Clear::default();
        let whens = [("seen", ClearWhen::Seen), ("verified", ClearWhen::Verified)];
        let max_devices = self.number(raw.max_devices, "clear.max-devices", 0, u64::from(u32::MAX));
        Clear {
            mode: raw.mode.and_then(|raw| self.choice(&raw, "clear.mode", &modes)).unwrap_or_default(),
            when: raw.when.and_then(|raw| self.choice(&raw, "clear.when", &whens)),
            hold: raw.hold.map_or(default.hold, |hold| hold.value),
            max_devices: max_devices.unwrap_or(default.max_devices),
            integrations: raw
                .integrations
                .and_then(|raw| self.choice(&raw, "clear.integrations", &ClearIntegrations::ALL))
                .unwrap_or_default(),
            api_keys: raw
                .api_keys
                .and_then(|raw| self.choice(&raw, "clear.api-keys", &ClearApiKeys::ALL))
                .unwrap_or_default(),
            gateways: raw
                .gateways
                .and_then(|raw| self.choice(&raw, "clear.gateways", &ClearGateways::ALL))
                .unwrap_or_default(),
        }
    }

    pub(super) fn limits(&mut self, raw: RawLimits) -> Limits {
        let default = Limits::default();
        let deadline = self.parsed(raw.deadline, "limits.deadline", quantity::duration);
        let connect = self.parsed(raw.connect_timeout, "limits.connect-timeout", quantity::duration);
        let lock_renewal = self.parsed(raw.lock_renewal, "limits.lock-renewal", quantity::duration);
        let max_message = self.parsed(raw.max_message, "limits.max-message", quantity::size);
        Limits {
            source: self.parsed(raw.source, "limits.source", str::parse),
            target: self.parsed(raw.target, "limits.target", str::parse),
            deadline: deadline.unwrap_or(default.deadline),
            connect_timeout: connect.unwrap_or(default.connect_timeout),
            max_message: max_message.unwrap_or(default.max_message),
            lock_renewal: lock_renewal.unwrap_or(default.lock_renewal),
        }
    }

    fn number(&mut self, raw: Option<At<u64>>, path: &str, least: u64, most: u64) -> Option<u64> {
        let raw = raw?;
        if !(least..=most).contains(&raw.value) {
            self.error(
                &raw.at,
                format!("`{path}` cannot be {}", raw.value),
                format!("from {least} to {most}"),
                "",
            );
        }
        Some(raw.value)
    }
}

/// The API's name of a version such as `1.0.3` or `1.0.3-a`; `kind` is `MAC` or `PHY`.
fn version(kind: &str, text: &str) -> Result<String, String> {
    let versions = proto::enumeration(&format!("{kind}Version"));
    let plain = text.to_ascii_uppercase().replace('.', "_").replace("-A", "_REV_A").replace("-B", "_REV_B");
    [text.to_owned(), format!("{kind}_V{plain}"), format!("TS001_V{plain}"), format!("RP002_V{plain}")]
        .into_iter()
        .find(|name| versions.values().any(|value| value.name() == name && value.number() != 0))
        .ok_or_else(|| {
            let known: Vec<String> =
                versions.values().filter(|v| v.number() != 0).map(|v| v.name().to_owned()).collect();
            format!("it is one of {}", known.join(", "))
        })
}
