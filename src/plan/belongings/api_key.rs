//! API keys of an application (`application.proto`, `ApplicationAccess`; docs/servers.md, API keys). The server chooses their
//! IDs and tells their secrets once: a copy is another key with the same name, rights and expiry. Names may repeat.

use std::collections::BTreeMap;

use prost_reflect::DynamicMessage;

use super::{Cleared, Facts, Found, Ids, KEY_RIGHT, Method, Pause, Sort, as_it_was, differences, rights};
use crate::{
    map::path,
    model::{belonging::ItemKey, device::Component},
    plan::finding::{Finding, Kind},
};

/// An API key. It is made by a call of its own (`tts::keys`) under a name that is unique; a Set gives it its name.
pub static API_KEY: Sort = Sort {
    name: "api-key",
    plural: "API keys",
    copy: "api-keys",
    server: Component::Is,
    message: "APIKey",
    ids: Ids::Key,
    list: Some(Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/ListAPIKeys",
        request: "ListApplicationAPIKeysRequest",
        at: "",
        field: "api_keys",
    }),
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/GetAPIKey",
        request: "GetApplicationAPIKeyRequest",
        at: "",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/UpdateAPIKey",
        request: "UpdateApplicationAPIKeyRequest",
        at: "api_key.",
        field: "api_key",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/DeleteAPIKey",
        request: "DeleteApplicationAPIKeyRequest",
        at: "",
        field: "",
    },
    left: &["id", "key", "created_at", "updated_at"],
    fields: &["name", "rights", "expires_at"],
    newer: &[],
    pause: Some(Pause::Expiry("expires_at")),
    defers: false,
    key: None,
    rights: &["RIGHT_APPLICATION_SETTINGS_API_KEYS"],
    cleared: Cleared::ApiKeys,
    look,
};

/// When a key expires, in seconds since 1970; `None` when it never does.
pub fn expiry(key: &DynamicMessage) -> Option<i64> {
    let time = path::child(key, "expires_at")?;
    Some(path::get(&time, "seconds").and_then(|s| s.as_i64()).unwrap_or_default())
}

/// Why a key stays behind.
fn left(key: &DynamicMessage, facts: &Facts) -> Option<Finding> {
    let id = path::string(key, "id");
    let of = |text: &str, fix: &str| Some(Finding::new(Kind::KeyLeft, text).fix(fix));
    if expiry(key).is_some_and(|time| time <= facts.now) {
        return of("it has expired", "");
    }
    if facts.keys_in_use.contains(&id) {
        return of(
            "it is one with which stackferry works in this migration",
            "make one on the target by hand if anybody else uses it",
        );
    }
    let only_downlinks = rights::names(key) == [KEY_RIGHT];
    if only_downlinks && (facts.downlink_keys.contains(&id) || is_named_by_us(&path::string(key, "name"))) {
        return of("it is for the downlinks of a webhook, whose copy gets one of its own", "");
    }
    None
}

/// `WEBHOOK down 01234567`, as a run of another journal has named one on what is the source now.
fn is_named_by_us(name: &str) -> bool {
    let digits = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    name.rsplit_once(" down ").is_some_and(|(hook, run)| !hook.is_empty() && digits(run))
}

fn look(key: &DynamicMessage, facts: &Facts) -> Vec<Finding> {
    if let Some(left) = left(key, facts) {
        return vec![left];
    }
    let mut findings: Vec<_> = rights::not_to_give(&rights::names(key), facts).into_iter().collect();
    if !path::has(key, "rights") {
        let text = "it has no rights, and no server makes such a key";
        findings
            .push(Finding::new(Kind::InvalidField, text).paths(["rights"]).fix("delete it at the source"));
    }
    findings
}

/// Finds the keys of the target that stand for keys of the source, each for one: first those with the same name, rights and
/// expiry, then those with the same name alone. Nobody can tell whether they were made for them.
pub fn pair(founds: &mut [Found], there: &BTreeMap<ItemKey, DynamicMessage>, facts: &Facts) {
    let lives = |key: &DynamicMessage| expiry(key).is_none_or(|time| time > facts.now);
    // Those with which this program works stand for none.
    let others = |item: &ItemKey| item.sort == API_KEY.name && !facts.keys_in_use.contains(&item.id);
    let mut free: Vec<_> = there.iter().filter(|(item, key)| others(item) && lives(key)).collect();
    for exact in [true, false] {
        for found in founds.iter_mut().filter(|f| f.sort.ids == Ids::Key && f.target_name.is_empty()) {
            if left(&found.message, facts).is_some() {
                continue;
            }
            let name = path::string(&found.message, "name");
            let wanted = as_it_was(&API_KEY, &found.message);
            let stands_for = |key: &DynamicMessage| {
                if exact {
                    differences(&API_KEY, &wanted, key).is_empty()
                } else {
                    !name.is_empty() && path::string(key, "name") == name
                }
            };
            if let Some(index) = free.iter().position(|(_, key)| stands_for(key)) {
                found.target_name = free.remove(index).0.id.clone();
            }
        }
    }
}

/// What is to be said of a key that stands for one of the source.
pub fn adopted(found: &Found) -> Finding {
    let text = format!(
        "{}: the target has a key of this name with these rights: none is made, and the secret of that one is not known here",
        found.title()
    );
    Finding::new(Kind::Adopted, text).fix("delete it there and run again if nobody has its secret")
}
