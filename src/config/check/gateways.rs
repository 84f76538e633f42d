//! The gateways.

use std::collections::BTreeSet;

use super::{
    super::{
        checked::{Clear, ClearGateways, ClearMode, Gateways, ListedGateway, WhichGateways},
        diagnostic::{Diagnostic, Place},
        quantity,
        raw::{RawDevices, RawGateway, RawGateways},
        read::{At, join},
    },
    Checker, Written,
};
use crate::model::{
    gateway::GatewayKey,
    ids::{Eui64, is_id},
};

/// Gateways of a run unless the file says otherwise.
const MAX: u64 = 100;
/// Where API keys go unless the file says otherwise.
const KEYS_FILE: &str = "gateway-keys.csv";

impl Checker<'_, '_> {
    pub(super) fn gateways(&mut self, raw: At<RawGateways>) -> Option<Gateways> {
        let At { value: mut raw, at } = raw;
        let keys = [
            ("ids", raw.ids.as_ref().map(|v| &v.at)),
            ("file", raw.file.as_ref().map(|v| &v.at)),
            ("glob", raw.glob.as_ref().map(|v| &v.at)),
            ("owner", raw.owner.as_ref().map(|v| &v.at)),
            ("list", raw.list.as_ref().map(|v| &v.at)),
        ];
        self.exactly_one("gateways", &at, &keys);
        let only_one = keys.iter().filter(|(_, at)| at.is_some()).count() == 1;
        let prefix = raw.id.take().and_then(|id| id.value.prefix);
        let prefix = self.parsed(prefix, "gateways.id.prefix", |text| {
            // What is refused with any ID behind it is refused here.
            if is_id(&format!("{text}roof-1")) || text.is_empty() {
                Ok(text.to_owned())
            } else {
                Err("a-z, 0-9 and single dashes between them")
            }
        });
        let mut api_keys = BTreeSet::new();
        for word in raw.api_keys.take().map(|keys| keys.value).unwrap_or_default() {
            api_keys.extend(self.choice(&word, "gateways.api-keys", &GatewayKey::ALL));
        }
        let cups_redirect = self.cups_redirect(raw.cups_redirect.take(), &api_keys);
        let wait = self.parsed(raw.wait.take(), "gateways.wait", quantity::duration);
        if let (Some(file), true) = (&raw.keys_file, api_keys.is_empty()) {
            let help = "write api-keys = [\"lns\"], or take it out";
            self.error(&file.at, "`gateways.keys-file` has no keys to hold", "", help);
        }
        let keys_file = At { value: KEYS_FILE.to_owned(), at: at.clone() };
        let keys_file = raw.keys_file.take().or((!api_keys.is_empty()).then_some(keys_file));
        let keys_file = self.output(keys_file, "gateways.keys-file").unwrap_or_default();
        let api_key = self.secret(raw.api_key.take(), "gateways.api-key");
        let max = raw.max_gateways.take();
        let max = max.map_or(MAX, |max| max.value);
        let which = if only_one { self.which_gateways(raw)? } else { return None };
        Some(Gateways {
            which,
            id_prefix: prefix.unwrap_or_default(),
            api_keys: api_keys.into_iter().collect(),
            keys_file,
            api_key,
            cups_redirect,
            wait,
            max,
        })
    }

    /// A gateway that CUPS sends elsewhere needs a key for the CUPS there, which then hands it the key for the LNS.
    fn cups_redirect(&mut self, raw: Option<At<bool>>, api_keys: &BTreeSet<GatewayKey>) -> bool {
        let Some(raw) = raw.filter(|raw| raw.value) else { return false };
        if self.from_v2 {
            let help = "take it out: the summary of a run says what to change in the gateways' own settings";
            self.error(&raw.at, "V2 has no CUPS that could send gateways elsewhere", "", help);
        } else if GatewayKey::ALL.iter().any(|(_, key)| !api_keys.contains(key)) {
            let text = "`gateways.cups-redirect` needs API keys at the target for both CUPS and LNS";
            self.error(&raw.at, text, "", "write api-keys = [\"lns\", \"cups\"]");
        }
        raw.value
    }

    /// Gateways go last: what is never cleared is never followed by them.
    pub(super) fn clear_of_gateways(
        &mut self,
        clear: &Clear,
        gateways: Option<&Gateways>,
        written: &Written,
    ) {
        let (Some(at), ClearGateways::Delete) = (&written.clear_gateways, clear.gateways) else { return };
        if gateways.is_none() || self.from_v2 {
            let text = "`clear.gateways` has no gateways of the source to delete";
            let help = if self.from_v2 {
                "take it out: V2 is not asked for gateways"
            } else {
                "add [gateways], or take it out"
            };
            self.error(at, text, "", help);
        } else if !matches!(clear.mode, ClearMode::Keys | ClearMode::Delete) {
            let text = "`clear.gateways` comes after the devices are cleared, and clear.mode clears none";
            self.error(at, text, "", "set clear.mode to \"keys\" or \"delete\", or take it out");
        }
    }

    fn which_gateways(&mut self, raw: RawGateways) -> Option<WhichGateways> {
        if let Some(list) = raw.list {
            if !self.from_v2 {
                let help =
                    "choose them by `ids`, `file`, `glob` or `owner`: the source knows the rest of them";
                self.error(
                    &list.at,
                    "`gateways.list` is for V2, which cannot be asked for gateways",
                    "",
                    help,
                );
            }
            if list.value.is_empty() {
                let help = "take [gateways] out to register none";
                self.error(&list.at, "`gateways.list` is empty", "", help);
            }
            return Some(WhichGateways::Listed(self.listed_gateways(list.value)));
        }
        if self.from_v2 {
            let places = [raw.ids.as_ref().map(|v| &v.at), raw.file.as_ref().map(|v| &v.at)];
            let more = [raw.glob.as_ref().map(|v| &v.at), raw.owner.as_ref().map(|v| &v.at)];
            let at = places.into_iter().chain(more).flatten().next()?.clone();
            let help = "write list = [{ id = \"roof-1\", eui = \"…\", frequency-plan = \"…\" }]";
            self.error(&at, "V2 cannot be asked for its gateways", "", help);
            return None;
        }
        if let Some(owner) = raw.owner {
            return self.owner(Some(owner), "gateways.owner").map(WhichGateways::Owner);
        }
        for (key, many) in [("ids", &raw.ids), ("glob", &raw.glob)] {
            if let Some(many) = many.as_ref().filter(|many| many.value.0.is_empty()) {
                let help = "take [gateways] out to register none";
                self.error(&many.at, format!("`gateways.{key}` is empty"), "", help);
                return None;
            }
        }
        let at = raw.ids.as_ref().map(|v| v.at.clone());
        let at =
            at.or(raw.file.as_ref().map(|v| v.at.clone())).or(raw.glob.as_ref().map(|v| v.at.clone()))?;
        let chosen = RawDevices { ids: raw.ids, file: raw.file, glob: raw.glob };
        Some(WhichGateways::Chosen(self.devices(Some(At { value: chosen, at }), "gateways")))
    }

    fn listed_gateways(&mut self, raw: Vec<At<RawGateway>>) -> Vec<ListedGateway> {
        let mut found: Vec<(ListedGateway, Place)> = Vec::new();
        for (i, At { value, at }) in raw.into_iter().enumerate() {
            let Some(gateway) = self.listed_gateway(value, &at, &format!("gateways.list[{i}]")) else {
                continue;
            };
            let same = |(other, _): &&(ListedGateway, _)| other.id == gateway.id || other.eui == gateway.eui;
            if let Some((_, first)) = found.iter().find(same) {
                let error = Diagnostic::error(&at, "two gateways have the same ID or EUI");
                self.reader.report(error.also(first, "the first one"));
            }
            found.push((gateway, at));
        }
        found.into_iter().map(|(gateway, _)| gateway).collect()
    }

    fn listed_gateway(&mut self, raw: RawGateway, at: &Place, path: &str) -> Option<ListedGateway> {
        let id = self.reader.required(raw.id, path, "id", at, "write the ID that it gets at the target");
        let eui = self.reader.required(raw.eui, path, "eui", at, "write its EUI: 16 hexadecimal digits");
        let plan = "write the frequency plan that it gets at the target";
        let plan = self.reader.required(raw.frequency_plan, path, "frequency-plan", at, plan);
        let ruled = |text: &str| {
            if is_id(text) {
                Ok(text.to_owned())
            } else {
                Err("a-z, 0-9 and single dashes between them, 3 to 36 of them")
            }
        };
        let id = self.parsed(id, &join(path, "id"), ruled);
        let eui = self.parsed(eui, &join(path, "eui"), str::parse::<Eui64>);
        let name = raw.name.map(|name| name.value).unwrap_or_default();
        Some(ListedGateway { id: id?, eui: eui?, frequency_plan: plan?.value, name })
    }
}
