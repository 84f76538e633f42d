//! Nothing is lost on the way: the stored messages of both servers, field by field, and never through `stackferry::map`,
//! which is what would lose it. That module only makes devices here, before anything is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt::Write as _, fs};

use prost_reflect::{
    DynamicMessage, MapKey, ReflectMessage as _, Value, bytes::BytesMut, prost::Message as _,
};
use stackferry::{
    map::{
        generate::{self, HOST, UNREACHED, Variant},
        path,
        replaced::{self, Treatment},
    },
    model::device::Component::{self, As, Is, Js, Ns},
    rehearsal::{
        Settings, load,
        store::{Table, device_key},
    },
};

use crate::world::{APP, Side, World, fixture};

/// The application on the target has an ID of its own, and the target a host of its own.
const TARGET_APP: &str = "moved-lab";
const TARGET_HOST: &str = "localhost";
/// The first byte of the target's DevAddrs (`World`); the source's are elsewhere.
const TARGET_BLOCK: u8 = 0x01;

/// What the target must hold in place of the source's value.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Instead {
    /// The ID of the application on the target.
    TargetApp,
    /// The host of the target, where the source named its own.
    TargetHost,
    /// A time of its own.
    OwnTime,
    /// The address of the session that it holds, or nothing.
    SessionAddr,
    /// Nothing: it belongs to the source's cluster.
    Nothing,
    /// Nothing: it cannot be written, and the plan says so.
    Lost,
    /// Nothing for "muted"; anything else goes along.
    NotMuted,
}

type Row = (Component, &'static str, Instead, &'static str);

/// Everything that may differ: component, path (and what is below it; `*.` for a last name anywhere), what is there
/// instead, why.
const REPLACED: &[Row] = &[
    (Is, "ids.application_ids", Instead::TargetApp, "the application has another ID"),
    (Is, "created_at", Instead::OwnTime, "stamped by each server"),
    (Is, "updated_at", Instead::OwnTime, "stamped by each server"),
    (Is, "network_server_address", Instead::TargetHost, "the server that holds it now"),
    (Is, "application_server_address", Instead::TargetHost, "the server that holds it now"),
    (Is, "join_server_address", Instead::TargetHost, "the server that holds it now"),
    (Is, "picture", Instead::Lost, "an address in the source's asset store"),
    (Js, "ids.application_ids", Instead::TargetApp, "the application has another ID"),
    (Js, "ids.dev_addr", Instead::SessionAddr, "follows the session"),
    (Js, "created_at", Instead::OwnTime, "stamped by each server"),
    (Js, "updated_at", Instead::OwnTime, "stamped by each server"),
    (Js, "network_server_address", Instead::TargetHost, "joins come from there now"),
    (Js, "application_server_address", Instead::TargetHost, "session keys go there now"),
    (Js, "net_id", Instead::Nothing, "the source's network"),
    (
        Js,
        "home_net_id",
        Instead::Nothing,
        "the source's network; of activation settings, which devices do not have",
    ),
    (Js, "application_server_id", Instead::Nothing, "the source's Application Server"),
    (Js, "network_server_kek_label", Instead::Nothing, "the source's key encryption keys"),
    (Js, "application_server_kek_label", Instead::Nothing, "the source's key encryption keys"),
    (Js, "*.kek_label", Instead::Nothing, "the source's key encryption keys"),
    (Js, "*.encrypted_key", Instead::Nothing, "the source's key encryption keys"),
    (Js, "provisioner_id", Instead::Lost, "the source's provisioner"),
    (As, "ids.application_ids", Instead::TargetApp, "the application has another ID"),
    (As, "ids.dev_addr", Instead::SessionAddr, "follows the session"),
    (As, "created_at", Instead::OwnTime, "stamped by each server"),
    (As, "updated_at", Instead::OwnTime, "stamped by each server"),
    (As, "*.kek_label", Instead::Nothing, "the source's key encryption keys"),
    (As, "*.encrypted_key", Instead::Nothing, "the source's key encryption keys"),
    (As, "pending_session", Instead::Lost, "no call takes it"),
    (Ns, "ids.application_ids", Instead::TargetApp, "the application has another ID"),
    (Ns, "ids.dev_addr", Instead::SessionAddr, "follows the session"),
    (Ns, "created_at", Instead::OwnTime, "stamped by each server"),
    (Ns, "updated_at", Instead::OwnTime, "stamped by each server"),
    (Ns, "mac_settings.schedule_downlinks", Instead::NotMuted, "the mute is the migration's own"),
    (Ns, "*.kek_label", Instead::Nothing, "the source's key encryption keys"),
    (Ns, "*.encrypted_key", Instead::Nothing, "the source's key encryption keys"),
    (Ns, "power_state", Instead::Lost, "only a status report sets it"),
    (Ns, "session.queued_application_downlinks", Instead::Lost, "no call takes it"),
];

/// A join whose accept was never sent stays behind, by design: the device tries again. (Not a row of the table: that one
/// is about values, this one about a state.)
const PENDING: &[Row] = &[
    (Ns, "pending_session", Instead::Lost, "a join that was not accepted"),
    (Ns, "pending_mac_state", Instead::Lost, "a join that was not accepted"),
];

/// The Network Server takes these and never tells them (`proto/field_masks.tsv`), so that nobody can read them: what it
/// holds of them stays behind unseen. Identity and Application Server hold their own, which go along.
const UNREADABLE: &[Row] = &[
    (Ns, "serial_number", Instead::Lost, "no mask of Get has it"),
    (Ns, "lora_alliance_profile_ids", Instead::Lost, "no mask of Get has it"),
];

/// All of the above that speak of a component.
fn rows(component: Component) -> impl Iterator<Item = &'static Row> {
    REPLACED.iter().chain(PENDING).chain(UNREADABLE).filter(move |row| row.0 == component)
}

/// Rows that no device here holds a value for: Join Servers know no address, activation settings are no device's, and
/// the API unwraps keys or the device is not moved.
fn is_unseen(component: Component, row: &str) -> bool {
    (component, row) == (Js, "ids.dev_addr")
        || row == "home_net_id"
        || (component != Ns && row.starts_with("*."))
}

/// The Identity Server answers these also when there is nothing in them (fixture).
const EMPTY_ANYWAY: &[&str] = &["version_ids", "lora_alliance_profile_ids"];

/// What stands at each path of a message: a scalar, or that an empty message is there.
type Leaves = BTreeMap<String, String>;

fn flatten(message: &DynamicMessage) -> Leaves {
    let mut leaves = Leaves::new();
    walk(message, "", &mut leaves);
    leaves
}

fn walk(message: &DynamicMessage, prefix: &str, leaves: &mut Leaves) {
    for (field, value) in message.fields() {
        let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
        let oneof = oneof.map(|oneof| format!("{}.", oneof.name())).unwrap_or_default();
        walk_value(value, &format!("{prefix}{oneof}{}", field.name()), leaves);
    }
    for (index, field) in message.unknown_fields().enumerate() {
        let mut bytes = BytesMut::new();
        field.encode(&mut bytes);
        leaves.insert(format!("{prefix}?{}#{index}", field.number()), format!("{bytes:?}"));
    }
}

fn walk_value(value: &Value, at: &str, leaves: &mut Leaves) {
    let before = leaves.len();
    match value {
        Value::Message(inner) => walk(inner, &format!("{at}."), leaves),
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                walk_value(item, &format!("{at}[{index}]"), leaves);
            }
        }
        Value::Map(entries) => {
            for (key, item) in entries {
                let key = match key {
                    MapKey::String(key) => key.clone(),
                    other => format!("{other:?}"),
                };
                walk_value(item, &format!("{at}[{key}]"), leaves);
            }
        }
        scalar => drop(leaves.insert(at.to_owned(), format!("{scalar:?}"))),
    }
    if leaves.len() == before {
        leaves.insert(at.to_owned(), "{}".to_owned());
    }
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn matches(row: &str, path: &str) -> bool {
    match row.strip_prefix("*.") {
        Some(last) => path.rsplit('.').next() == Some(last),
        None => is_below(path, row),
    }
}

/// Takes out what `row` speaks of.
fn take(leaves: &mut Leaves, row: &str) -> Leaves {
    let (taken, rest) = std::mem::take(leaves).into_iter().partition(|(path, _)| matches(row, path));
    *leaves = rest;
    taken
}

/// The paths that differ and must not. `kept` says whether the session goes along.
fn differences(
    component: Component,
    source: &DynamicMessage,
    target: &DynamicMessage,
    kept: bool,
) -> Vec<String> {
    let (mut want, mut have) = (flatten(source), flatten(target));
    let addr = have.get("session.dev_addr").cloned();
    let mut wrong = Vec::new();
    for (_, row, instead, _) in rows(component) {
        let (was, is) = (take(&mut want, row), take(&mut have, row));
        let quoted = |text: &str| format!("{:?}", Value::String(text.to_owned()));
        let right = match instead {
            Instead::TargetApp => is.values().eq([&quoted(TARGET_APP)]) && is.keys().eq(was.keys()),
            Instead::TargetHost => is.keys().eq(was.keys()) && is.values().all(|v| *v == quoted(TARGET_HOST)),
            Instead::OwnTime => is.is_empty() || is != was,
            Instead::SessionAddr => is.values().all(|v| Some(v) == addr.as_ref()),
            Instead::Nothing | Instead::Lost => is.is_empty(),
            Instead::NotMuted => is.iter().eq(was.iter().filter(|(_, v)| *v != "{}")),
        };
        if !right {
            wrong.push((*row).to_owned());
        }
        // A message that held nothing else may stay, empty.
        if let (false, Some((parent, _))) = (was.is_empty(), row.rsplit_once('.'))
            && !want.keys().any(|path| is_below(path, parent))
            && have.get(parent).is_some_and(|value| value == "{}")
        {
            have.remove(parent);
        }
    }
    if !kept {
        for left in ["session", "mac_state"] {
            take(&mut want, left);
        }
    }
    if component == Is {
        for leaves in [&mut want, &mut have] {
            leaves.retain(|path, value| value != "{}" || !EMPTY_ANYWAY.contains(&path.as_str()));
        }
    }
    let all: BTreeSet<_> = want.keys().chain(have.keys()).collect();
    wrong.extend(all.into_iter().filter(|path| want.get(*path) != have.get(*path)).cloned());
    wrong
}

/// What a server stores of all devices of an application: component and device ID.
type Fleet = BTreeMap<(String, Component), DynamicMessage>;

fn fleet(side: &Side, app: &str) -> Fleet {
    let store = side.tts.store();
    let records = Component::ALL.into_iter().flat_map(|component| {
        store
            .iter(Table::of(component))
            .map(move |(key, record)| ((key.to_owned(), component), record.clone()))
    });
    let prefix = format!("{app}.");
    records.filter_map(|((key, c), r)| Some(((key.strip_prefix(&prefix)?.to_owned(), c), r))).collect()
}

/// A generated device with what only a server that ran for a while would hold besides.
fn generated(seed: u64) -> Vec<(Component, DynamicMessage)> {
    let mut records = generate::records(seed);
    let present: Vec<_> = records.present().map(|(component, _)| component).collect();
    let mut out = Vec::new();
    for component in present {
        let mut record = records.slot(component).take().expect("present").0;
        path::set(&mut record, "ids.application_ids.application_id", Value::String(APP.to_owned()));
        for (at, value) in flatten(&record) {
            if value == format!("{:?}", Value::String(HOST.to_owned())) {
                path::set(&mut record, &at, Value::String("127.0.0.1".to_owned()));
            }
        }
        for (at, days) in [("created_at.seconds", 1), ("updated_at.seconds", 2)] {
            path::set(&mut record, at, Value::I64(1_600_000_000 + 86_400 * days));
        }
        let mut addr = path::bytes(&record, "session.dev_addr");
        if !addr.is_empty() {
            addr[0] = if seed.is_multiple_of(2) { TARGET_BLOCK } else { addr[0] };
            path::set(&mut record, "session.dev_addr", Value::Bytes(addr.clone().into()));
            path::set(&mut record, "ids.dev_addr", Value::Bytes(addr.into()));
        }
        if component == Ns {
            path::set(&mut record, "power_state", Value::EnumNumber(2));
            if seed % 7 == 3 && Variant::of(seed) != Variant::Multicast {
                path::set(&mut record, "mac_settings.schedule_downlinks.value", Value::Bool(false));
                path::touch(&mut record, "mac_settings.schedule_downlinks");
            }
        }
        if component == As && Variant::of(seed) == Variant::Joining {
            let session = path::child(&record, "session").expect("generated");
            path::set(&mut record, "pending_session", Value::Message(session));
        }
        out.push((component, record));
    }
    out
}

/// An application at the source with these generated devices; with the 100 of the fixture if wanted.
fn world(with_fixture: bool, mode: &str, seeds: impl Iterator<Item = u64>) -> World {
    let world =
        World::with(Settings::default(), Settings { host: TARGET_HOST.to_owned(), ..Settings::default() });
    let devices = with_fixture.then(|| fixture("tts-fleet-100.jsonl"));
    let application = fixture("tts-fleet-application.json");
    load(&world.source.tts, devices.as_deref(), Some(&application)).expect("the fixture loads");
    for seed in seeds {
        for (component, record) in generated(seed) {
            let key = device_key(APP, &path::string(&record, "ids.device_id"));
            let mut store = world.source.tts.store();
            assert!(store.get(Table::of(component), &key).is_none(), "two devices are {key}");
            store.put(Table::of(component), &key, record).expect("memory");
        }
    }
    let file = world.config(&format!(
        "[transform]\nsession = \"{mode}\"\nallow-loss = [\"picture\", \"queued-downlinks\", \"muted-source\"]\n[clear]\nmode = \"nothing\"\n"
    ));
    let text = fs::read_to_string(&file).expect("written");
    let (from, to) =
        (world.target.addr().to_string(), format!("{TARGET_HOST}:{}", world.target.addr().port()));
    let text =
        text.replace(&from, &to).replace("target = \"fleet-lab\"", &format!("target = \"{TARGET_APP}\""));
    fs::write(file, text).expect("a file");
    world
}

/// What the README promises of sessions, said once more: only those that join can lose theirs.
fn is_kept(mode: &str, ns: &DynamicMessage) -> bool {
    let leaves = flatten(ns);
    let inside = path::bytes(ns, "session.dev_addr").first() == Some(&TARGET_BLOCK);
    !leaves.contains_key("supports_join") || mode == "keep" || (mode == "auto" && inside)
}

/// Both sides after the move against the source before it: sessions kept and dropped.
fn check(world: &World, mode: &str, before: &Fleet) -> (usize, usize) {
    let (after, moved) = (fleet(&world.source, APP), fleet(&world.target, TARGET_APP));
    assert!(before.keys().eq(moved.keys()) && before.keys().eq(after.keys()), "all records on both sides");
    let mut report = String::new();
    let (mut kept, mut dropped) = (0, 0);
    for ((device, component), was) in before {
        let key = (device.clone(), *component);
        let keeps = before.get(&(device.clone(), Ns)).is_none_or(|ns| is_kept(mode, ns));
        if *component == Ns && flatten(was).contains_key("session.dev_addr") {
            *(if keeps { &mut kept } else { &mut dropped }) += 1;
        }
        for path in differences(*component, was, &moved[&key], keeps) {
            writeln!(report, "{device}: {component}: {path}").expect("memory");
        }
        // The source itself is only muted.
        let (mut was, mut is) = (flatten(was), flatten(&after[&key]));
        for own in ["updated_at", "mac_settings.schedule_downlinks"] {
            take(&mut was, own);
            take(&mut is, own);
        }
        for path in was.keys().chain(is.keys()).filter(|path| was.get(*path) != is.get(*path)) {
            writeln!(report, "{device}: {component}: {path} changed at the source").expect("memory");
        }
    }
    assert!(report.is_empty(), "session = {mode}: lost or changed:\n{report}");
    (kept, dropped)
}

fn moves(mode: &str, seeds: u64) -> (Fleet, usize, usize) {
    let world = world(true, mode, 0..seeds);
    let before = fleet(&world.source, APP);
    world.run().expect(0).says(&format!("{} devices moved", 100 + seeds));
    let (kept, dropped) = check(&world, mode, &before);
    (before, kept, dropped)
}

/// Rows of `proto/field_masks.tsv` for the calls that set devices.
fn settable() -> Vec<(Component, String)> {
    let calls = [
        (Is, "EndDeviceRegistry/Update"),
        (Js, "JsEndDeviceRegistry/Set"),
        (As, "AsEndDeviceRegistry/Set"),
        (Ns, "NsEndDeviceRegistry/Set"),
    ];
    let table = include_str!("../../proto/field_masks.tsv");
    let rows = table.lines().filter_map(|line| line.split_once("\tset\t"));
    rows.filter_map(|(rpc, path)| Some((calls.iter().find(|c| c.1 == rpc)?.0, path.to_owned()))).collect()
}

#[test]
fn kept_sessions_lose_nothing_and_every_settable_path_was_tried() {
    let (before, kept, dropped) = moves("keep", 75);
    println!("{} records equal, {kept} sessions kept, {dropped} dropped", before.len());
    assert_eq!(dropped, 0);
    let mut held: BTreeMap<Component, BTreeSet<String>> = BTreeMap::new();
    for ((_, component), record) in &before {
        held.entry(*component).or_default().extend(flatten(record).into_keys());
    }
    let holds = |component, row: &str| held[&component].iter().any(|path| matches(row, path));
    let excused = |component, path: &str| {
        UNREACHED.iter().any(|u| u.0 == component && is_below(u.1, path) && u.1 != "picture")
    };
    let all = settable();
    let (covered, missed): (Vec<_>, Vec<_>) =
        all.iter().partition(|(component, path)| holds(*component, path));
    let left = |row: &&&(Component, String)| PENDING.iter().any(|p| p.0 == row.0 && is_below(&row.1, p.1));
    let unread =
        |row: &&&(Component, String)| UNREADABLE.iter().any(|u| u.0 == row.0 && is_below(&row.1, u.1));
    println!(
        "{} of {} settable paths covered; {} of them are of joins that stay behind, {} of what no server tells",
        covered.len(),
        all.len(),
        covered.iter().filter(left).count(),
        covered.iter().filter(unread).count(),
    );
    let missed: Vec<_> = missed.into_iter().filter(|(component, path)| !excused(*component, path)).collect();
    assert!(missed.is_empty(), "no device holds {missed:?}");
    for (component, row, ..) in Component::ALL.into_iter().flat_map(rows) {
        assert_eq!(
            holds(*component, row),
            !is_unseen(*component, row),
            "{component} {row}: is the row needed?"
        );
    }
}

#[test]
fn dropped_sessions_lose_nothing_else() {
    let (before, kept, dropped) = moves("drop", 30);
    println!("{} records equal, {kept} sessions kept, {dropped} dropped", before.len());
    assert!(dropped > 30 && kept > 30, "those of ABP and multicast are kept");
}

#[test]
fn sessions_are_kept_by_their_address_and_lose_nothing() {
    let (before, kept, dropped) = moves("auto", 30);
    println!("{} records equal, {kept} sessions kept, {dropped} dropped", before.len());
    assert!(dropped > 20 && kept > 20, "both are tried");
}

#[test]
fn a_device_whose_join_was_accepted_waits_untouched() {
    let world = world(false, "keep", (0..10).map(|n| n * 5 + 2));
    for n in 0..10 {
        world.source.edit(Table::Ns, APP, &format!("gen-{:06}", n * 5 + 2), |ns| {
            path::clear(ns, "pending_mac_state.queued_join_accept");
        });
    }
    let before = fleet(&world.source, APP);
    world.run().says("10 devices waiting").says("has joined and not sent an uplink yet");
    assert!(fleet(&world.source, APP) == before, "the source was touched");
    assert_eq!(fleet(&world.target, TARGET_APP).len(), 0);
}

#[test]
fn the_table_of_replaced_fields_is_the_one_that_is_documented() {
    let theirs: BTreeSet<_> =
        replaced::table().iter().map(|r| (r.component, r.path, r.treatment.to_string())).collect();
    let ours = REPLACED.iter().map(|(component, path, instead, _)| {
        let treatment = match instead {
            Instead::TargetApp | Instead::TargetHost | Instead::Nothing => Treatment::TargetsOwn,
            Instead::OwnTime | Instead::SessionAddr => Treatment::ServerSet,
            Instead::Lost => Treatment::Reported,
            Instead::NotMuted => Treatment::Dropped,
        };
        (*component, *path, treatment.to_string())
    });
    assert_eq!(theirs, ours.collect());
}

/// The comparison sees every single value: each third is taken away in turn (all of them take long).
#[test]
fn a_single_lost_value_is_found() {
    for seed in 0..5 {
        for (component, source) in generated(seed) {
            let mut whole = source.clone();
            path::set(&mut whole, "ids.application_ids.application_id", Value::String(TARGET_APP.to_owned()));
            for (_, row, instead, _) in rows(component) {
                match instead {
                    Instead::TargetHost if path::has(&whole, row) => {
                        path::set(&mut whole, row, Value::String(TARGET_HOST.to_owned()));
                    }
                    Instead::TargetHost | Instead::TargetApp | Instead::SessionAddr => {}
                    Instead::NotMuted if path::flag(&whole, row) => {}
                    _ => path::clear(&mut whole, row),
                }
            }
            assert_eq!(differences(component, &source, &whole, true), [""; 0], "{component} of {seed}");
            let mut tried = 0;
            for leaf in flatten(&whole).into_keys().skip(seed as usize % 3).step_by(3) {
                let Some(poorer) = without(&whole, &leaf) else { continue };
                let lost = differences(component, &source, &poorer, true);
                assert!(!lost.is_empty() || leaf == "ids.dev_addr", "{component} of {seed}: {leaf}");
                tried += 1;
            }
            assert!(tried > 5, "{component} of {seed}: {tried}");
            let mut strange = whole.encode_to_vec();
            strange.extend([0xFA, 0x3F, 1, 7]);
            let strange = DynamicMessage::decode(whole.descriptor(), strange.as_slice()).expect("decodes");
            assert_eq!(differences(component, &source, &strange, true), ["?1023#0"], "unknown fields count");
        }
    }
}

/// The message without one of its leaves; `None` when it is inside a list or map.
fn without(message: &DynamicMessage, leaf: &str) -> Option<DynamicMessage> {
    let mut poorer = message.clone();
    path::clear(&mut poorer, leaf.split('[').next()?);
    (poorer != *message).then_some(poorer)
}
