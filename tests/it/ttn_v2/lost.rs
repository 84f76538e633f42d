//! A clear whose end is not known, and keys that are gone from V2 without it: what the device is reachable by is never given up.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use prost_reflect::Value;
use stackferry::{
    map::{path, ttn_v2::is_cleared},
    rehearsal::{CallInfo, Fault, store::Table},
};
use tonic::Code;

use crate::world::{
    is_muted,
    v2::{KINDS, PLAIN, V2_APP, V2World},
};

/// A configuration for all kinds, in which sessions are kept or dropped.
fn sessions(session: &str) -> String {
    let transform = format!("[transform]\nsession = \"{session}\"\ndevice-id = {{ rename = \"auto\" }}");
    PLAIN.replace("[transform]", &transform)
}

/// Every device is cleared at V2, and live on the target with the keys that it had.
fn moved(world: &V2World, before: &[Option<Vec<u8>>]) {
    for (id, key) in KINDS.iter().zip(before) {
        let device = world.device(id).expect("nothing is deleted");
        assert!(is_cleared(device.message(), false), "{id} has its AppKey at V2");
        let name = id.replace('_', "-");
        let ns = world.on_target(Table::Ns, &name).unwrap_or_else(|| panic!("{id} is on neither side"));
        assert!(!is_muted(&ns), "{id} is muted");
        if let Some(key) = key {
            let js = world.on_target(Table::Js, &name).expect("an OTAA device joins");
            assert_eq!(path::bytes(&js, "root_keys.app_key.key"), *key, "{id}");
        }
    }
}

fn app_keys(world: &V2World) -> Vec<Option<Vec<u8>>> {
    let key = |id: &&str| world.device(id).expect("there").app_key().map(|k| k.to_vec());
    KINDS.iter().map(key).collect()
}

fn of(call: &CallInfo, method: &str) -> bool {
    call.rpc() == format!("ApplicationManager/{method}")
}

#[test]
fn a_clear_that_cannot_be_read_back_was_made_all_the_same() {
    for session in ["keep", "drop"] {
        let world = V2World::some(&KINDS);
        let keys = app_keys(&world);
        world.config(&sessions(session));
        // Of what it has cleared, V2 tells nothing any more in this run.
        let cleared = Arc::new(Mutex::new(BTreeSet::new()));
        let silent = Arc::clone(&cleared);
        world.v2.on_applied(move |call| {
            if of(call, "SetDevice") {
                cleared.lock().expect("whole").insert(call.entity.clone());
            }
        });
        world.v2.on_call(move |call| {
            let silent = silent.lock().expect("whole");
            let fails = of(call, "GetDevice") && silent.contains(&call.entity)
                || of(call, "GetDevicesForApplication") && !silent.is_empty();
            fails.then_some(Fault::Text(Code::PermissionDenied, "no"))
        });
        let ran = world.run().expect(3);
        assert_eq!(ran.said().matches("in the middle: could not clear").count(), 1, "{}", ran.said());
        world.v2.unhook();
        world.run().expect(0);
        moved(&world, &keys);
    }
}

#[test]
fn a_clear_whose_answer_is_lost_is_looked_at_before_it_is_made_again() {
    for (fault, session) in [
        (Fault::CutAfter, "keep"),
        (Fault::CutAfter, "drop"),
        (Fault::CutBefore, "keep"),
        (Fault::StatusAfter(Code::Unknown), "keep"),
        (Fault::Status(Code::ResourceExhausted), "keep"),
    ] {
        let world = V2World::some(&KINDS);
        let keys = app_keys(&world);
        world.config(&sessions(session));
        let failed = AtomicUsize::new(0);
        let said = fault.clone();
        world.v2.on_call(move |call| {
            let fails = of(call, "SetDevice") && failed.fetch_add(1, Ordering::SeqCst) < 3;
            fails.then(|| said.clone())
        });
        world.run().expect(0);
        moved(&world, &keys);
        let calls = world.v2.calls();
        for (at, call) in calls.iter().enumerate().filter(|(_, call)| of(call, "SetDevice")) {
            let has_session = !call.entity.ends_with("node-000");
            let before = &calls[at - 1];
            let looked = of(before, "GetDevice") && before.entity == call.entity;
            let refused_for_its_rate = before.code == Some(Code::ResourceExhausted);
            assert!(!has_session || looked || refused_for_its_rate, "{fault:?}: {call:?} after {before:?}");
        }
    }
}

/// Gives the device a session at V2, as a join does: what a join does not change stays.
fn join(world: &V2World, id: &'static str) -> impl Fn() + Send + Sync + 'static {
    let (v2, device) = (Arc::clone(&world.v2), world.device(id).expect("there"));
    let message = device.message().clone();
    move || {
        let mut joined = message.clone();
        for (field, bytes) in
            [("dev_addr", vec![0x26, 1, 2, 3]), ("nwk_s_key", vec![7; 16]), ("app_s_key", vec![8; 16])]
        {
            path::set(&mut joined, &format!("lorawan_device.{field}"), Value::Bytes(bytes.into()));
        }
        for counter in ["f_cnt_up", "f_cnt_down"] {
            path::set(&mut joined, &format!("lorawan_device.{counter}"), Value::U32(3));
        }
        v2.take_devices(vec![joined], V2_APP).expect("memory");
    }
}

#[test]
fn a_join_in_the_moment_of_the_clear_goes_on_with_its_own_counters_also_after_a_lost_answer() {
    for fault in [None, Some(Fault::CutAfter)] {
        // It has a session, which stays at V2, with counters that a new one does not reach.
        let world = V2World::some(&["node-001"]);
        world.edit("node-001", |device| {
            path::set(device, "lorawan_device.f_cnt_up", Value::U32(5000));
            path::set(device, "lorawan_device.f_cnt_down", Value::U32(500));
        });
        world.config(&sessions("drop"));
        let join = join(&world, "node-001");
        let once = AtomicBool::new(true);
        world.v2.on_call(move |call| {
            if !of(call, "SetDevice") || !once.swap(false, Ordering::SeqCst) {
                return None;
            }
            join();
            fault.clone()
        });
        let ran = world.run().expect(0);
        assert!(ran.said().contains("joined the source in the moment"), "{}", ran.said());
        let device = world.device("node-001").expect("there");
        assert!(is_cleared(device.message(), false));
        assert_eq!(device.nwk_s_key().map(|k| k.to_vec()), Some(vec![7; 16]), "its session goes on");
        assert_eq!(device.f_cnt_up(), 0, "its uplinks are taken");
        assert!(
            (16..16_384).contains(&device.f_cnt_down()),
            "its downlinks are taken: {}",
            device.f_cnt_down()
        );
        // The way back leaves it that session.
        world.call("rollback", &["--yes"]).expect(0);
        let device = world.device("node-001").expect("there");
        assert!(device.app_key().is_some());
        assert_eq!(device.nwk_s_key().map(|k| k.to_vec()), Some(vec![7; 16]), "its session goes on");
    }
}

#[test]
fn keys_that_somebody_else_has_cleared_are_not_given_up_on_the_target() {
    for id in ["node-001", "abp-003"] {
        let world = V2World::some(&[id]);
        let key = world.device(id).expect("there").app_key().map(|k| k.to_vec());
        world.config(PLAIN);
        // Between the copy and the last look another tool clears it.
        let (v2, device) = (Arc::clone(&world.v2), world.device(id).expect("there"));
        let once = AtomicBool::new(true);
        world.target.tts.on_replied(move |call| {
            if call.rpc() == "NsEndDeviceRegistry/Set" && once.swap(false, Ordering::SeqCst) {
                let cleared = stackferry::map::ttn_v2::cleared(device.message(), true);
                v2.take_devices(vec![cleared], V2_APP).expect("memory");
            }
        });
        let ran = world.run().expect(3);
        assert!(ran.said().contains("its keys were cleared at the source, and not by us"), "{}", ran.said());
        world.run().expect(3);
        let ran = world.call("rollback", &["--yes"]);
        let ns = world.on_target(Table::Ns, id).unwrap_or_else(|| panic!("{id} is nowhere: {}", ran.said()));
        assert!(is_muted(&ns), "nobody knows who has it");
        if let Some(key) = key {
            let js = world.on_target(Table::Js, id).expect("there");
            assert_eq!(path::bytes(&js, "root_keys.app_key.key"), key);
        }
    }
}

#[test]
fn a_device_that_rejoins_while_its_clear_is_on_hold_is_copied_anew() {
    let world = V2World::some(&["node-001"]);
    let held = format!("{PLAIN}\n[clear]\nhold = true\n");
    world.config(&held);
    world.run().expect(0);
    assert!(is_muted(&world.on_target(Table::Ns, "node-001").expect("copied")));
    join(&world, "node-001")();
    world.call("clear", &["--yes"]).expect(0);
    let ns = world.on_target(Table::Ns, "node-001").expect("moved");
    assert!(!is_muted(&ns));
    assert_eq!(path::bytes(&ns, "session.keys.f_nwk_s_int_key.key"), [7; 16], "the session that it has now");
    assert!(path::has(&ns, "mac_state"), "with the MAC state of the plan");
}

#[test]
fn a_session_that_somebody_gave_an_abp_device_since_is_not_overwritten() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    world.run().expect(0);
    join(&world, "abp-003")();
    let ran = world.call("rollback", &["--yes"]);
    assert!(ran.said().contains("somebody has given it keys"), "{}", ran.said());
    let device = world.device("abp-003").expect("there");
    assert_eq!(device.nwk_s_key().map(|k| k.to_vec()), Some(vec![7; 16]));
    assert!(!is_muted(&world.on_target(Table::Ns, "abp-003").expect("it stays")));
}

/// A device of V2 that was moved, deleted there, and registered anew by somebody: V2 refuses what a rollback gives it.
#[test]
fn a_device_that_the_source_does_not_take_back_stays_alive_on_the_target() {
    let world = V2World::some(&["node-001"]);
    let before = world.device("node-001").expect("there").message().clone();
    world.config(&format!("{PLAIN}\n[clear]\nmode = \"delete\"\nwhen = \"verified\"\n"));
    world.run().expect(0);
    assert!(world.device("node-001").is_none());
    let mut other = before;
    for at in ["dev_id", "lorawan_device.dev_id"] {
        path::set(&mut other, at, Value::String("other".to_owned()));
    }
    world.v2.take_devices(vec![other], V2_APP).expect("memory");
    for _ in 0..2 {
        let ran = world.call("rollback", &["--yes"]);
        assert_eq!(ran.code, Some(3), "{}", ran.said());
        assert!(!is_muted(&world.on_target(Table::Ns, "node-001").expect("it stays")), "{}", ran.said());
    }
    world.remove("other");
    world.call("rollback", &["--yes"]).expect(0);
    assert!(world.device("node-001").is_some_and(|device| device.is_otaa()));
}

#[test]
fn a_target_that_somebody_unmuted_on_the_way_back_is_not_live_at_the_source_too() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    world.run().expect(0);
    // Right before V2 is read for its write somebody wonders why the device is silent.
    let target = Arc::clone(&world.target.tts);
    let replied = AtomicBool::new(false);
    world.target.tts.on_replied(move |call| {
        if call.rpc() == "NsEndDeviceRegistry/Set" && !replied.swap(true, Ordering::SeqCst) {
            let key = format!("{V2_APP}.abp-003");
            let mut store = target.store();
            let mut ns = store.get(Table::Ns, &key).cloned().expect("muted");
            path::clear(&mut ns, "mac_settings.schedule_downlinks");
            store.put(Table::Ns, &key, ns).expect("memory");
        }
    });
    let ran = world.call("rollback", &["--yes"]);
    let live = !is_muted(&world.on_target(Table::Ns, "abp-003").expect("it is there"));
    let device = world.device("abp-003").expect("there");
    assert!(!(live && device.has_session()), "live on both: {}", ran.said());
}

#[test]
fn what_people_wrote_at_the_source_since_stays_there_on_the_way_back() {
    let world = V2World::some(&["node-001"]);
    world.config(PLAIN);
    world.run().expect(0);
    world.edit("node-001", |device| {
        path::set(device, "description", Value::String("moved to the cellar".to_owned()));
    });
    world.call("rollback", &["--yes"]).expect(0);
    let device = world.device("node-001").expect("there");
    assert_eq!(device.description(), "moved to the cellar");
    assert!(device.is_otaa() && device.has_session());
}

#[test]
fn a_device_that_got_keys_at_the_source_since_is_not_deleted_there() {
    let world = V2World::some(&["node-000"]);
    let key = world.device("node-000").expect("there").app_key().map(|key| key.to_vec());
    world.config(&format!("{PLAIN}\n[clear]\nmode = \"delete\"\nwhen = \"seen\"\n"));
    world.run().says("not seen there yet");
    world.edit("node-000", |device| {
        path::set(device, "lorawan_device.app_key", Value::Bytes(key.clone().expect("OTAA").into()));
    });
    // Seen there now: it has joined.
    world.target.edit(Table::Ns, V2_APP, "node-000", |ns| {
        path::set(ns, "session.dev_addr", Value::Bytes(vec![0x26, 9, 9, 9].into()));
        path::set(ns, "session.keys.session_key_id", Value::Bytes(vec![1; 16].into()));
    });
    let ran = world.run().expect(3);
    assert!(ran.said().contains("it is not deleted"), "{}", ran.said());
    assert!(world.device("node-000").is_some_and(|device| device.is_otaa()));
}

#[test]
fn a_device_whose_copy_is_gone_comes_back_from_the_seal() {
    let world = V2World::some(&["node-001", "abp-003"]);
    let keys = ["node-001", "abp-003"].map(|id| {
        let device = world.device(id).expect("there");
        (device.app_key().map(|k| k.to_vec()), device.nwk_s_key().map(|k| k.to_vec()), device.f_cnt_down())
    });
    world.config(PLAIN);
    world.run().expect(0);
    for key in world.target_keys(Table::Is) {
        for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
            world.target.tts.store().remove(table, &key).expect("memory");
        }
    }
    world.call("rollback", &["--yes"]).expect(0).says("the target's record is gone, and not by us");
    for (id, (app_key, nwk_s_key, down)) in ["node-001", "abp-003"].into_iter().zip(keys) {
        let device = world.device(id).expect("there");
        assert_eq!(device.app_key().map(|k| k.to_vec()), app_key, "{id}");
        assert_eq!(device.nwk_s_key().map(|k| k.to_vec()), nwk_s_key, "{id}");
        assert!(device.f_cnt_down() > down + 1000, "{id}: {}", device.f_cnt_down());
    }
}
