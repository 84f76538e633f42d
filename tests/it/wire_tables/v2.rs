//! The compiled protos of V2 against the tables of its wire. Only what is used is compiled, but that whole: a message
//! with a field less would lose it in a SetDevice.

use std::collections::{BTreeMap, BTreeSet};

use stackferry::proto;

use super::{cell, described, rows, same};

const PACKAGES: [&str; 3] = ["discovery", "handler", "lorawan"];
/// Fields whose presence counts: written `optional` here, which is the same on the wire.
const PRESENT: [&str; 4] = ["dev_addr", "nwk_s_key", "app_s_key", "app_key"];

#[test]
fn the_fields_of_v2_are_those_of_the_wire() {
    let mut compiled = BTreeMap::new();
    let mut names = BTreeSet::new();
    let ours = proto::pool().all_messages();
    for message in ours.filter(|m| PACKAGES.contains(&m.package_name()) && !m.is_map_entry()) {
        names.insert(message.full_name().to_owned());
        for field in message.fields() {
            let (kind, mut label, oneof) = described(&field);
            if message.full_name() == "lorawan.Device" && PRESENT.contains(&field.name()) {
                assert_eq!(label, "optional", "{}", field.name());
                label.clear();
            }
            let key = (message.full_name().to_owned(), field.number().to_string(), field.name().to_owned());
            compiled.insert(key, (kind, label, oneof));
        }
    }
    assert!(names.len() >= 10, "{names:?}");
    let mut table = BTreeMap::new();
    for row in rows(include_str!("../../wire/ttn-v2-fields.tsv")).filter(|row| names.contains(cell(row, 0))) {
        let key = (cell(&row, 0).to_owned(), cell(&row, 1).to_owned(), cell(&row, 2).to_owned());
        table.insert(key, (cell(&row, 3).to_owned(), cell(&row, 4).to_owned(), cell(&row, 5).to_owned()));
    }
    same(&table, &compiled);
}

#[test]
fn the_methods_of_v2_are_those_of_the_wire() {
    let mut compiled = BTreeMap::new();
    for service in proto::pool().services().filter(|service| PACKAGES.contains(&service.package_name())) {
        for method in service.methods() {
            assert!(!method.is_client_streaming() && !method.is_server_streaming());
            let types = (method.input().full_name().to_owned(), method.output().full_name().to_owned());
            compiled.insert((service.full_name().to_owned(), method.name().to_owned()), types);
        }
    }
    let mut table = BTreeMap::new();
    for row in rows(include_str!("../../wire/ttn-v2-rpcs.tsv")) {
        let key = (cell(&row, 0).to_owned(), cell(&row, 1).to_owned());
        if compiled.contains_key(&key) {
            table.insert(key, (cell(&row, 2).to_owned(), cell(&row, 3).to_owned()));
        }
    }
    same(&table, &compiled);
}
