//! A recorded conversation and what it tells of the server that it was held with.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value as Json;
use stackferry::{
    model::ids::{DevAddrPrefix, Eui64, NetId},
    rehearsal::{RateLimit, Settings},
};

/// One step.
#[derive(Debug, Clone)]
pub struct Step(pub Json);

impl Step {
    pub fn n(&self) -> u64 {
        self.0["n"].as_u64().unwrap_or_default()
    }

    /// `/ttn.lorawan.v3.EndDeviceRegistry/Get`.
    pub fn path(&self) -> &str {
        self.0["rpc"].as_str().unwrap_or_default()
    }

    /// `EndDeviceRegistry/Get`.
    pub fn rpc(&self) -> &str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    pub fn code(&self) -> &str {
        self.0["code"].as_str().unwrap_or_default()
    }

    pub fn is_ok(&self) -> bool {
        self.code() == "OK"
    }

    pub fn repeat(&self) -> u64 {
        self.0["repeat"].as_u64().unwrap_or(1)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.0["headers"][name].as_str()
    }

    /// The string at a JSON pointer of the request or the answer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.0.pointer(pointer).and_then(Json::as_str).filter(|text| !text.is_empty())
    }
}

/// The steps of one file.
#[derive(Debug, Clone)]
pub struct Recording {
    pub name: String,
    pub steps: Vec<Step>,
}

impl Recording {
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("the recording is readable");
        let steps = text.lines().filter(|line| !line.trim().is_empty());
        let steps =
            steps.map(|line| Step(serde_json::from_str(line).expect("a step is a line of JSON"))).collect();
        Self { name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(), steps }
    }

    fn answered(&self, rpc: &str) -> Option<&Json> {
        self.steps.iter().find(|s| s.rpc() == rpc && s.is_ok()).map(|s| &s.0["res"])
    }

    /// ID of the administrator's API key: as `AuthInfo` shows it, or the rate limiter.
    fn admin_key_id(&self) -> String {
        let shown = |step: &Step| {
            let known = step.text("/res/api_key/api_key/id");
            let limited = step.text("/details/0/attributes/key").and_then(|key| key.rsplit_once(":token:"));
            (step.0["as"] == "admin")
                .then(|| known.or(limited.map(|(_, id)| id)).map(str::to_owned))
                .flatten()
        };
        self.steps.iter().find_map(shown).unwrap_or_else(|| "B".repeat(39))
    }

    /// The user whose key the administrator's is.
    pub fn admin(&self) -> String {
        let admin = self.steps.iter().filter(|s| s.0["as"] == "admin" && s.is_ok());
        let shown = admin.clone().find_map(|s| s.text("/res/api_key/entity_ids/user_ids/user_id"));
        let used = || admin.clone().find_map(|s| s.text("/req/collaborator/user_ids/user_id"));
        shown.or_else(used).unwrap_or("admin").to_owned()
    }

    /// Users or organizations that requests named and the server took.
    fn accounts(&self, kind: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        for step in self.steps.iter().filter(|s| s.is_ok()) {
            strings(&step.0["req"], &format!("{kind}_id"), &mut found);
            strings(&step.0["res"], &format!("{kind}_id"), &mut found);
        }
        found.into_iter().collect()
    }

    /// A server like the one that was recorded.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings {
            admin: self.admin(),
            api_key: format!("NNSXS.{}.{}", self.admin_key_id(), "C".repeat(52)),
            users: self.accounts("user"),
            organizations: self.accounts("organization"),
            ..Settings::default()
        };
        if let Some(id) = self.answered("Ns/GetNetID").and_then(|a| NetId::from_bytes(&bytes(&a["net_id"]))) {
            settings.net_id = id;
        }
        if let Some(answer) = self.answered("Ns/GetDeviceAddressPrefixes") {
            let prefixes = answer["dev_addr_prefixes"].as_array().into_iter().flatten();
            settings.dev_addr_prefixes =
                prefixes.filter_map(|p| DevAddrPrefix::from_bytes(&bytes(p))).collect();
        }
        if let Some(answer) = self.answered("Js/GetJoinEUIPrefixes") {
            let prefixes = answer["prefixes"].as_array().into_iter().flatten();
            settings.join_eui_prefixes = prefixes
                .filter_map(|p| {
                    let length = p["length"].as_u64().unwrap_or_default();
                    Some((Eui64::from_bytes(&bytes(&p["join_eui"]))?, u8::try_from(length).ok()?))
                })
                .collect();
        }
        let limit = self.steps.iter().find_map(|s| s.header("x-rate-limit-limit")?.parse().ok());
        settings.rate_limit =
            limit.map(|limit| RateLimit::per_entity(limit, std::time::Duration::from_secs(60)));
        settings
    }
}

/// Every string of this name in `json`.
pub fn strings(json: &Json, name: &str, out: &mut BTreeSet<String>) {
    match json {
        Json::Object(map) => {
            for (key, value) in map {
                match value {
                    Json::String(text) if key == name && !text.is_empty() => {
                        out.insert(text.clone());
                    }
                    _ => strings(value, name, out),
                }
            }
        }
        Json::Array(list) => list.iter().for_each(|value| strings(value, name, out)),
        _ => {}
    }
}

/// Base64 in JSON.
pub fn bytes(json: &Json) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(json.as_str().unwrap_or_default()).unwrap_or_default()
}
