//! What the recorded server held before the conversation, as far as the conversation shows it.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, Value};
use serde_json::{Value as Json, json};
use stackferry::{
    map::path,
    proto,
    rehearsal::{
        Tts,
        store::{Store, Table},
    },
};

use super::{
    message,
    recording::{Recording, Step},
};

struct Kind {
    service: &'static str,
    message: &'static str,
    name: &'static str,
    prefix: &'static str,
    table: Table,
}

const KINDS: [Kind; 2] = [
    Kind {
        service: "ApplicationRegistry",
        message: "Application",
        name: "application",
        prefix: "app",
        table: Table::Applications,
    },
    Kind {
        service: "GatewayRegistry",
        message: "Gateway",
        name: "gateway",
        prefix: "gtw",
        table: Table::Gateways,
    },
];

/// Puts it into the store of a fresh server.
pub fn seed(tts: &Tts, recording: &Recording) {
    let mut store = tts.store();
    for kind in &KINDS {
        seed_kind(&mut store, recording, kind);
    }
}

fn seed_kind(store: &mut Store, recording: &Recording, kind: &Kind) {
    let admin = recording.admin();
    let id =
        |entity: &Json| entity["ids"][format!("{}_id", kind.name)].as_str().unwrap_or_default().to_owned();
    // Made by the conversation so far, and still there.
    let (mut made, mut alive) = (BTreeSet::new(), BTreeSet::new());
    let mut before = BTreeSet::new();
    for step in recording.steps.iter().filter(|s| s.is_ok()) {
        let Some((service, method)) = step.rpc().split_once('/') else { continue };
        if service != kind.service {
            continue;
        }
        let named = step.0["req"][format!("{}_id", kind.name)].as_str().unwrap_or_default().to_owned();
        match method {
            "Create" => {
                let id = id(&step.0["res"]);
                made.insert(id.clone());
                alive.insert(id);
            }
            "Delete" => {
                alive.remove(&named);
            }
            "Restore" => {
                alive.insert(named);
            }
            "Get" if !made.contains(&id(&step.0["res"])) => {
                before.insert(id(&step.0["res"]));
                put(store, kind, &admin, &step.0["res"]);
            }
            "List" if step.0["req"]["deleted"] != true => {
                let listed = step.0["res"][format!("{}s", kind.name)].as_array().cloned().unwrap_or_default();
                for entity in listed.iter().filter(|e| !made.contains(&id(e))) {
                    before.insert(id(entity));
                    put(store, kind, &admin, entity);
                }
                for filler in fillers(step, alive.len() + before.len()) {
                    before.insert(filler.clone());
                    let entity = json!({"ids": {format!("{}_id", kind.name): filler}});
                    put(store, kind, &admin, &entity);
                }
            }
            _ => {}
        }
    }
}

/// Names for the entries that a listing counted but did not show.
fn fillers(step: &Step, known: usize) -> Vec<String> {
    let total = step.header("x-total-count").and_then(|n| n.parse::<usize>().ok()).unwrap_or(known);
    (known..total).map(|n| format!("zzzz-not-shown-{n}")).collect()
}

fn put(store: &mut Store, kind: &Kind, admin: &str, entity: &Json) {
    let entity: DynamicMessage = message::parse(&proto::descriptor(kind.message), entity).expect("an entity");
    let id = path::string(&entity, &format!("ids.{}_id", kind.name));
    let mut collaborator = proto::message("Collaborator");
    path::set(&mut collaborator, "ids.user_ids.user_id", Value::String(admin.to_owned()));
    let all = proto::enumeration("Right").get_value_by_name("RIGHT_ALL").expect("a right").number();
    path::set(&mut collaborator, "rights", Value::List(vec![Value::EnumNumber(all)]));
    let key = format!("{}:{id}/usr:{admin}", kind.prefix);
    store.put(Table::Collaborators, &key, collaborator).expect("memory");
    store.put(kind.table, &id, entity).expect("memory");
}
