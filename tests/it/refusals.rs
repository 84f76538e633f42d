//! What goes wrong, and what is left behind: nothing.

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost_reflect::{DynamicMessage, Value, prost::Message as _};
use stackferry::{
    map::path,
    proto,
    rehearsal::{
        CallInfo, Fault, Settings,
        store::{Table, device_key},
    },
};
use tonic::Code;

use crate::world::{APP, LOSSES, World, about_marker, dev, is_muted};

const KEYS: &str = "[transform]\nsession = \"keep\"\n[clear]\nmode = \"keys\"\n";
const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];

/// Nothing of the application's devices is on the target, and the source is as it was.
#[track_caller]
fn untouched(world: &World, numbers: &[usize]) {
    assert_eq!(TABLES.map(|t| world.target.count(t, APP)), [0; 4], "left on the target");
    for number in numbers {
        let ns = world.source.record(Table::Ns, APP, &dev(*number)).expect("kept");
        assert!(!is_muted(&ns), "{number} is still muted");
    }
}

#[test]
fn an_id_that_is_taken_stops_its_device_only() {
    let world = World::some(&[0, 2]);
    world.config(&format!("{LOSSES}[clear]\nmode = \"keys\"\n"));
    world.run().expect(0);

    let world = World::some(&[0, 2]);
    world.config(&format!("{LOSSES}[clear]\nmode = \"keys\"\n"));
    let mut other = world.source.record(Table::Is, APP, &dev(2)).expect("there");
    path::set(&mut other, "name", Value::String("another".into()));
    let app = world.source.tts.store().get(Table::Applications, APP).cloned().expect("there");
    let mut app = app;
    app.clear_field_by_name("created_at");
    world.target.tts.store().put(Table::Applications, APP, app).expect("memory");
    world.target.tts.store().put(Table::Is, &device_key(APP, &dev(2)), other).expect("memory");
    world.run().expect(3).says("1 device moved").says("id-taken").says("name");
    let left = world.target.record(Table::Is, APP, &dev(2)).expect("it is not ours");
    assert_eq!(path::string(&left, "name"), "another");
    assert!(world.target.record(Table::Ns, APP, &dev(2)).is_none());
}

#[test]
fn euis_that_are_taken_are_found_before_anything_is_written() {
    let world = World::some(&[0]);
    world.config(LOSSES);
    let mut other = world.source.record(Table::Is, APP, &dev(0)).expect("there");
    path::set(&mut other, "ids.device_id", Value::String("somebody".into()));
    path::set(&mut other, "ids.application_ids.application_id", Value::String("another-app".into()));
    world.target.tts.store().put(Table::Is, &device_key("another-app", "somebody"), other).expect("memory");
    world.run().expect(3).says("euis-taken").says("somebody of application another-app");
    untouched(&world, &[0]);
    // The default payload formatters are copied all the same, under the lock.
    let calls = world.source.tts.calls();
    assert!(calls.iter().all(|call| !call.is_write || about_marker(call)));
}

#[test]
fn a_refusal_by_the_target_undoes_everything() {
    for step in [
        "EndDeviceRegistry/Create",
        "JsEndDeviceRegistry/Set",
        "AsEndDeviceRegistry/Set",
        "NsEndDeviceRegistry/Set",
    ] {
        let world = World::some(&[1]);
        world.config(KEYS);
        world.target.tts.on_call(move |call| {
            let this = call.method.ends_with(&format!("v3.{step}")) && !about_marker(call);
            this.then_some(Fault::Error(Code::InvalidArgument, "pkg/networkserver", "field_value"))
        });
        world.run().expect(3).says("1 device not moved").says("field_value");
        untouched(&world, &[1]);
        world.call("status", &[]).expect(0);
    }
}

#[test]
fn a_lost_answer_is_looked_up_and_the_device_goes_on() {
    for step in [
        "EndDeviceRegistry/Create",
        "JsEndDeviceRegistry/Set",
        "AsEndDeviceRegistry/Set",
        "NsEndDeviceRegistry/Set",
    ] {
        let world = World::some(&[1]);
        world.config(KEYS);
        let cut = Arc::new(AtomicUsize::new(0));
        world.target.tts.on_call(move |call| {
            let this = call.method.ends_with(&format!("v3.{step}")) && !about_marker(call);
            (this && cut.fetch_add(1, Ordering::SeqCst) == 0).then_some(Fault::CutAfter)
        });
        world.run().expect(0).says("1 device moved");
        let calls = world.target.tts.calls();
        let this = |c: &&CallInfo| c.method.ends_with(&format!("v3.{step}")) && !about_marker(c);
        let sent = calls.iter().filter(this).count();
        // The NS is told the start time of the session as well.
        assert_eq!(sent, if step.starts_with("Ns") { 2 } else { 1 }, "{step} was repeated");
    }
}

#[test]
fn somebody_who_unmutes_the_source_stops_the_move() {
    let world = World::some(&[1]);
    world.config(KEYS);
    let source = Arc::clone(&world.source.tts);
    world.target.tts.on_call(move |call| {
        if call.method.ends_with("AsEndDeviceRegistry/Set") {
            let mut store = source.store();
            let key = device_key(APP, &dev(1));
            let mut ns = store.get(Table::Ns, &key).cloned().expect("there");
            path::clear(&mut ns, "mac_settings.schedule_downlinks");
            store.put(Table::Ns, &key, ns).expect("memory");
        }
        None
    });
    world.run().expect(3).says("changed-meanwhile").says("mac_settings.schedule_downlinks");
    untouched(&world, &[1]);
}

#[test]
fn somebody_who_edits_the_source_stops_the_clear() {
    let world = World::some(&[1]);
    world.config(&KEYS.replace("[clear]", "[clear]\nhold = true"));
    world.run().expect(0).says("on hold");
    world.source.edit(Table::Js, APP, &dev(1), |js| {
        path::set(js, "root_keys.app_key.key", Value::Bytes(vec![7; 16].into()));
    });
    world.config(KEYS);
    world.run().expect(3).says("needs a look").says("root_keys.app_key.key");
    assert!(world.source.record(Table::Js, APP, &dev(1)).is_some(), "nothing is cleared");
}

#[test]
fn a_downlink_counter_that_somebody_moved_at_the_muted_source_stops_the_clear() {
    let world = World::some(&[9]);
    world.config(&KEYS.replace("[clear]", "[clear]\nhold = true"));
    world.run().expect(0).says("on hold");
    world.source.edit(Table::Ns, APP, &dev(9), |ns| {
        let next = path::number(ns, "session.last_n_f_cnt_down") as u32 + 100;
        path::set(ns, "session.last_n_f_cnt_down", Value::U32(next));
    });
    world.config(KEYS);
    world.run().expect(3).says("needs a look").says("session.last_n_f_cnt_down");
    assert!(world.source.record(Table::Ns, APP, &dev(9)).is_some(), "nothing is cleared");
}

#[test]
fn somebody_who_edits_the_target_is_neither_overwritten_nor_undone() {
    let world = World::some(&[1]);
    world.config(&KEYS.replace("[clear]", "[clear]\nhold = true"));
    world.run().expect(0).says("on hold");
    world.target.edit(Table::Is, APP, &dev(1), |is| path::set(is, "name", Value::String("edited".into())));
    world.config(KEYS);
    world.run().expect(3).says("needs a look").says("the target was edited").says("(name)");
    assert!(world.source.record(Table::Js, APP, &dev(1)).is_some(), "nothing is cleared");
    let is = world.target.record(Table::Is, APP, &dev(1)).expect("nothing is undone");
    assert_eq!(path::string(&is, "name"), "edited");
}

#[test]
fn too_many_failures_stop_the_run() {
    let world = World::fleet();
    world.config(&format!("{LOSSES}[rollout]\nmax-failures = 3\nin-flight = 2\n"));
    world.target.tts.on_call(|call| {
        let this = call.method.ends_with("v3.EndDeviceRegistry/Create") && !about_marker(call);
        this.then_some(Fault::Status(Code::InvalidArgument))
    });
    let ran = world.run().expect(3).says("no new devices are begun");
    assert!(ran.out.contains("not begun"), "{}", ran.out);
    assert_eq!(TABLES.map(|t| world.target.count(t, APP)), [0; 4]);
}

#[test]
fn an_unreachable_target_is_named_and_nothing_is_written() {
    let world = World::some(&[1]);
    let file = world.config(KEYS);
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replace(&world.target.addr().to_string(), &closed.to_string())).expect("a file");
    world.run().expect(4).says(&closed.to_string());
    assert_eq!(world.source.writes(), [""; 0]);
}

#[test]
fn a_plaintext_server_is_recognised_when_tls_was_meant() {
    let world = World::some(&[1]);
    let file = world.config(KEYS);
    let text = fs::read_to_string(&file).expect("written").replace("insecure = true", "");
    fs::write(&file, text).expect("a file");
    world.run().expect(4).says("insecure");
}

#[test]
fn a_slow_server_is_waited_for_and_a_dead_one_is_not() {
    let world = World::some(&[1, 2]);
    world.config(KEYS);
    world.target.tts.on_call(|_| Some(Fault::Delay(Duration::from_millis(30))));
    world.run().expect(0).says("2 devices moved");

    let world = World::some(&[1]);
    world.config(&format!("{KEYS}[limits]\ndeadline = \"1s\"\n"));
    world.target.tts.on_call(|call| {
        call.method.ends_with("GetDeviceAddressPrefixes").then_some(Fault::Delay(Duration::from_secs(60)))
    });
    world.run().expect(4);
}

#[test]
fn keys_that_are_unknown_expired_or_lack_rights_are_told_apart() {
    use stackferry::rehearsal::EntityKind;
    let world = World::some(&[1]);
    world.config(KEYS);
    let with = |key: &str| {
        let output = world.command("run").arg("--yes").env("SOURCE_KEY", key).output().expect("it starts");
        crate::world::Ran::of(output)
    };
    with(
        "NNSXS.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
    )
    .expect(5);
    let past = std::time::SystemTime::now() - Duration::from_secs(3600);
    let key = |rights: &[&str], expires| {
        world.source.tts.create_key(EntityKind::Application, APP, rights, expires).expect("memory")
    };
    with(&key(&["APPLICATION_ALL"], Some(past))).expect(5);
    let ran =
        with(&key(&["APPLICATION_INFO", "APPLICATION_SETTINGS_BASIC", "APPLICATION_DEVICES_READ"], None));
    assert!(matches!(ran.code, Some(3 | 5)), "{ran:?}");
    ran.says("DEVICES_READ_KEYS");
    assert_eq!(world.source.writes(), [""; 0]);
}

#[test]
fn an_older_target_stops_devices_that_would_lose_a_value() {
    let older =
        Settings { refused_paths: vec!["skip_payload_crypto_override".into()], ..Settings::default() };
    let world = World::with(Settings::default(), older);
    load_one(&world, 8);
    world.config(KEYS);
    world.run().expect(3).says("unsupported-paths").says("skip_payload_crypto_override");
    untouched(&world, &[8]);
    world.config(&KEYS.replace("[clear]", "allow-loss = [\"unsupported-paths\"]\n[clear]"));
    world.run().expect(0).says("1 device moved");
}

#[test]
fn an_older_source_is_read_without_what_it_does_not_know() {
    let older = Settings {
        refused_paths: vec!["lora_alliance_profile_ids".into(), "mac_state.pending_relay_downlink".into()],
        ..Settings::default()
    };
    let world = World::with(older, Settings::default());
    load_one(&world, 1);
    world.config(KEYS);
    world.run().expect(0).says("1 device moved");
}

/// Loads the fixture into the source and keeps one device.
fn load_one(world: &World, number: usize) {
    let fleet = World::some(&[number]);
    let from = fleet.source.tts.store();
    let mut into = world.source.tts.store();
    for table in [Table::Applications, Table::Links, Table::Is, Table::Js, Table::As, Table::Ns] {
        for (key, message) in from.iter(table) {
            into.put(table, key, message.clone()).expect("memory");
        }
    }
}

#[test]
fn a_field_that_this_build_does_not_know_stops_the_device() {
    let world = World::some(&[1]);
    world.config(KEYS);
    world.source.edit(Table::Ns, APP, &dev(1), |ns| {
        let mut bytes = path::child(ns, "mac_state").expect("it has a session").encode_to_vec();
        // Field 1000, a varint.
        bytes.extend([0xC0, 0x3E, 0x01]);
        let state = DynamicMessage::decode(proto::descriptor("MACState"), bytes.as_slice()).expect("valid");
        path::set(ns, "mac_state", Value::Message(state));
    });
    world.run().expect(3).says("unknown-fields").says("1000");
    untouched(&world, &[1]);
    world.config(&KEYS.replace("[clear]", "allow-loss = [\"unknown-fields\"]\n[clear]"));
    world.run().expect(0).says("1 device moved");
}

#[test]
fn a_broken_configuration_is_told_with_carets() {
    let world = World::some(&[1]);
    world.config("[transform]\nsession = \"kep\"\n[rollout]\nin-fligth = 3\n");
    world.run().expect(2).says("did you mean `keep`?").says("in-flight").says("^^");
}

#[test]
fn a_run_that_nobody_confirms_changes_nothing() {
    let world = World::some(&[1]);
    world.config(KEYS);
    world.call("run", &[]).expect(2).says("--yes");
    assert_eq!(world.source.writes(), [""; 0]);
    assert_eq!(world.target.writes(), [""; 0]);
}
