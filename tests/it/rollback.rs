//! The way back, at any step and also after the clear.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use prost_reflect::Value;
use stackferry::{
    map::path,
    rehearsal::{
        Fault,
        auditor::Side,
        store::{Table, device_key},
    },
};

use tonic::Code;

use crate::world::{APP, World, about_marker, dev, is_muted, traffic::Watched};

const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];
/// One of each kind of the fixture, without queued downlinks at the start.
const KINDS: [usize; 10] = [0, 1, 2, 13, 4, 5, 6, 7, 8, 9];

fn config(session: &str, clear: &str) -> String {
    format!(
        "[transform]\nsession = \"{session}\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\n{clear}\n"
    )
}

const MUTE: &str = "mac_settings.schedule_downlinks";

/// Nothing is left on the target, and the source is live.
#[track_caller]
fn is_back(world: &World, numbers: &[usize]) {
    assert_eq!(TABLES.map(|t| world.target.count(t, APP)), [0; 4], "left on the target");
    for number in numbers {
        let ns = world.source.record(Table::Ns, APP, &dev(*number)).expect("it is back");
        assert!(!is_muted(&ns), "{number} is still muted");
    }
}

#[test]
fn a_fleet_that_lived_on_the_target_comes_back_and_goes_again() {
    let cases = [
        ("keep", "mode = \"keys\"", 1),
        ("drop", "mode = \"keys\"", 2),
        ("keep", "mode = \"delete\"\nwhen = \"verified\"", 3),
        ("drop", "mode = \"delete\"\nwhen = \"verified\"", 4),
        ("auto", "mode = \"nothing\"", 5),
        ("keep", "mode = \"mute\"", 6),
    ];
    for (session, clear, seed) in cases {
        let world = World::some(&KINDS);
        world.config(&config(session, clear));
        let watched = Watched::new(world, &KINDS, seed);
        watched.until_done("run");
        watched.stir(300);
        watched.auditor.protect(Side::Target);
        watched.until_done("rollback");
        is_back(&watched.world, &KINDS);
        watched.prove("source");

        let writes = |w: &World| (w.source.writes().len(), w.target.writes().len());
        let before = writes(&watched.world);
        watched.world.call("rollback", &["--yes"]).expect(0).says("nothing to bring back");
        assert_eq!(writes(&watched.world), before, "a second rollback writes nothing");

        watched.auditor.protect(Side::Source);
        watched.until_done("run");
        if session != "keep" {
            watched.join_all();
        }
        watched.prove("target");
    }
}

#[test]
fn a_device_that_joined_the_target_goes_on_at_the_source_without_another_join() {
    let world = World::some(&[1]);
    world.config(&config("drop", "mode = \"keys\"\nwhen = \"verified\""));
    let watched = Watched::new(world, &[1], 1);
    for side in [&watched.world.source, &watched.world.target] {
        side.tts.unhook();
    }
    watched.world.run().expect(0);
    {
        let mut field = watched.field.lock().expect("not poisoned");
        let crate::world::traffic::Field { ether, devices, .. } = &mut *field;
        let joined = ether.join(&mut devices[0]).expect("it may join");
        assert_eq!(joined.answered_by.as_deref(), Some("target"));
        ether.uplink(&mut devices[0], 1, b"up", true).expect("it may send");
    }
    let session = |side: &crate::world::Side| {
        path::child(&side.record(Table::Ns, APP, &dev(1)).expect("there"), "session").expect("joined")
    };
    let there = session(&watched.world.target);
    watched.auditor.protect(Side::Target);
    watched.world.call("rollback", &["--yes"]).expect(0).says("is not of the source's blocks");
    assert_eq!(session(&watched.world.source), there, "the session is the target's");
    {
        let mut field = watched.field.lock().expect("not poisoned");
        let crate::world::traffic::Field { ether, devices, .. } = &mut *field;
        let answer = ether.uplink(&mut devices[0], 1, b"up", true).expect("it may send");
        assert_eq!(answer.answered_by.as_deref(), Some("source"));
        assert_eq!(answer.payload_at("source"), Some(&b"up"[..]));
    }
    watched.prove("source");
}

#[test]
fn one_device_comes_back_and_the_application_stays_until_the_last() {
    let world = World::some(&[1, 2, 4]);
    world.config(&config("keep", "mode = \"keys\""));
    world.run().expect(0);
    world
        .call("rollback", &["--device", &dev(2), "--yes"])
        .expect(0)
        .says("1 device brought back to the source");
    assert_eq!(TABLES.map(|t| world.target.count(t, APP)), [2, 2, 2, 2]);
    assert!(world.source.record(Table::Ns, APP, &dev(2)).is_some_and(|ns| !is_muted(&ns)));
    assert!(world.source.record(Table::Ns, APP, &dev(1)).is_none(), "the others stay where they are");
    world.call("rollback", &["--yes"]).expect(0).says("2 devices brought back").says("fleet-lab removed");
    is_back(&world, &[1, 2, 4]);
    let app = world.target.tts.store().get(Table::Applications, APP).cloned().expect("its ID stays taken");
    assert!(path::has(&app, "deleted_at"), "it was deleted");
    world.run().expect(0).says("3 devices moved");
    let app = world.target.tts.store().get(Table::Applications, APP).cloned().expect("restored");
    assert!(!path::has(&app, "deleted_at"), "it was restored");
}

#[test]
fn an_application_that_was_there_before_or_holds_more_is_not_removed() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"keys\""));
    world.run().expect(0);
    let mut other = world.source.record(Table::Is, APP, &dev(1)).expect("there");
    path::set(&mut other, "ids.device_id", Value::String("not-ours".into()));
    path::clear(&mut other, "ids.dev_eui");
    world.target.tts.store().put(Table::Is, &device_key(APP, "not-ours"), other).expect("memory");
    world.call("rollback", &["--yes"]).expect(0).says("stays on the target");
    let app = world.target.tts.store().get(Table::Applications, APP).cloned().expect("there");
    assert!(!path::has(&app, "deleted_at"));
    assert_eq!(world.target.count(Table::Is, APP), 1, "what is not ours stays");
}

#[test]
fn a_rollback_of_what_is_half_done_ends_the_same() {
    for (hold, code) in [(true, 0), (false, 0)] {
        let world = World::some(&[1, 2, 4]);
        let clear = format!("mode = \"keys\"\nhold = {hold}");
        world.config(&config("drop", &clear));
        world.run().expect(code).says(if hold { "on hold" } else { "not seen there yet" });
        world.call("rollback", &["--yes"]).expect(0).says("3 devices brought back");
        is_back(&world, &[1, 2, 4]);
    }
}

#[test]
fn what_somebody_registered_at_the_source_since_is_not_overwritten() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"keys\""));
    let js = world.source.record(Table::Js, APP, &dev(1)).expect("there");
    world.run().expect(0);
    let mut other = js.clone();
    path::set(&mut other, "root_keys.app_key.key", Value::Bytes(vec![7; 16].into()));
    world.source.tts.store().put(Table::Js, &device_key(APP, &dev(1)), other.clone()).expect("memory");
    world
        .call("rollback", &["--yes"])
        .expect(3)
        .says("changed-meanwhile")
        .says("registered it at the source anew");
    assert_eq!(world.source.record(Table::Js, APP, &dev(1)), Some(other), "somebody's record stays");
    let ns = world.target.record(Table::Ns, APP, &dev(1)).expect("it stays on the target");
    assert!(!is_muted(&ns), "and live there");
    world.source.remove(Table::Js, APP, &dev(1));
    world.call("rollback", &["--yes"]).expect(0).says("1 device brought back to the source");
    is_back(&world, &[1]);
}

/// The read after the write failed: the record is known as our own when it is looked at again.
#[test]
fn what_a_rollback_restored_before_a_read_failed_is_not_somebody_elses() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"keys\""));
    world.run().expect(0);
    let written = AtomicBool::new(false);
    world.source.tts.on_call(move |call| {
        if call.method.ends_with("NsEndDeviceRegistry/Set") {
            written.store(true, SeqCst);
        }
        let next_read = call.method.ends_with("AsEndDeviceRegistry/Get") && written.swap(false, SeqCst);
        next_read.then_some(Fault::Status(Code::Unauthenticated))
    });
    world.call("rollback", &["--yes"]).expect(0).says("1 device brought back to the source");
    is_back(&world, &[1]);
}

/// A record that is just like the one that was cleared is somebody's all the same, in every run.
#[test]
fn what_somebody_registered_while_a_rollback_runs_is_never_taken_for_ours() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"keys\""));
    let (source, key) = (Arc::clone(&world.source.tts), device_key(APP, &dev(1)));
    let cleared = Arc::new(Mutex::new(None));
    let (seen, of) = (Arc::clone(&cleared), key.clone());
    world.source.tts.on_call(move |call| {
        if call.method.ends_with("NsEndDeviceRegistry/Delete") {
            *seen.lock().expect("no panic") = source.store().get(Table::Ns, &of).cloned();
        }
        None
    });
    world.run().expect(0);
    world.source.tts.unhook();
    let theirs = cleared.lock().expect("no panic").take().expect("it was cleared");
    let (source, record) = (Arc::clone(&world.source.tts), theirs.clone());
    world.source.tts.on_applied(move |call| {
        if call.method.ends_with("JsEndDeviceRegistry/Set") {
            source.store().put(Table::Ns, &key, record.clone()).expect("memory");
        }
    });
    for _ in 0..3 {
        world.call("rollback", &["--yes"]).expect(3).says("registered it at the source anew");
        world.source.tts.unhook();
        assert_eq!(world.source.record(Table::Ns, APP, &dev(1)), Some(theirs.clone()), "theirs stays");
    }
    world.source.remove(Table::Ns, APP, &dev(1));
    world.call("rollback", &["--yes"]).expect(0).says("1 device brought back to the source");
    is_back(&world, &[1]);
}

#[test]
fn euis_that_somebody_took_at_the_source_keep_the_device_on_the_target() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"delete\""));
    let mut is = world.source.record(Table::Is, APP, &dev(1)).expect("there");
    world.run().expect(0);
    path::set(&mut is, "ids.device_id", Value::String("somebody".into()));
    path::set(&mut is, "ids.application_ids.application_id", Value::String("another-app".into()));
    world.source.tts.store().put(Table::Is, &device_key("another-app", "somebody"), is).expect("memory");
    let before = world.target.writes().len();
    world
        .call("rollback", &["--yes"])
        .expect(3)
        .says("euis-taken")
        .says("somebody of application another-app");
    assert_eq!(world.target.writes().len(), before, "nothing was changed");
}

#[test]
fn a_rollback_that_nobody_confirms_changes_nothing() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"keys\""));
    world.call("rollback", &["--yes"]).expect(6).says("nothing was moved yet");
    world.run().expect(0);
    let before = (world.source.writes().len(), world.target.writes().len());
    world.call("rollback", &[]).expect(2).says("--yes");
    world.call("rollback", &["--dry-run"]).expect(0).says("1 device to bring back");
    world.call("rollback", &["--application", "nope", "--yes"]).expect(2);
    assert_eq!((world.source.writes().len(), world.target.writes().len()), before);
}

/// Somebody else's mute that was allowed is back with the device: said before, and a stop again for the next run.
#[test]
fn what_was_found_muted_comes_back_muted_and_is_not_taken_for_our_own() {
    for clear in ["mode = \"keys\"", "mode = \"delete\"", "mode = \"mute\""] {
        let world = World::some(&[1, 2]);
        world.source.edit(Table::Ns, APP, &dev(1), |ns| path::set_wrapped(ns, MUTE, Value::Bool(false)));
        let strict = config("keep", clear);
        let allows = strict.replace("[\"picture\"", "[\"muted-source\", \"picture\"");
        world.config(&allows);
        world.run().expect(0).says("2 devices moved");
        let back = world.call("rollback", &["--yes"]).expect(0).says("muted-source: NS: it was found muted");
        let back = back.says("cannot be undone: 1 device");
        back.says("2 devices brought back");
        let muted =
            || [1, 2].map(|n| is_muted(&world.source.record(Table::Ns, APP, &dev(n)).expect("it is back")));
        assert_eq!(muted(), [true, false], "{clear}");
        world.config(&strict);
        world.run().expect(3).says("1 device moved").says("muted-source: 1 device").says(&dev(1));
        assert!(world.target.record(Table::Ns, APP, &dev(1)).is_none(), "{clear}");
        world.source.edit(Table::Ns, APP, &dev(1), |ns| path::clear(ns, MUTE));
        world.run().expect(0).says("1 device moved");
    }
}

#[test]
fn clear_goes_on_with_what_was_held_and_begins_nothing() {
    let world = World::some(&[1, 11]);
    world.config(&config("keep", "mode = \"keys\"\nhold = true"));
    // The second device appears after the run.
    let later = TABLES.map(|t| (t, world.source.record(t, APP, &dev(11)).expect("there")));
    TABLES.iter().for_each(|t| world.source.remove(*t, APP, &dev(11)));
    world.run().expect(0).says("on hold");
    for (table, record) in later {
        world.source.tts.store().put(table, &device_key(APP, &dev(11)), record).expect("memory");
    }
    world.call("clear", &["--yes"]).expect(0).says("1 device moved");
    assert_eq!(world.source.count(Table::Ns, APP), 1, "the held one is cleared, the other is left alone");
    assert_eq!(world.target.count(Table::Ns, APP), 1, "nothing else is begun");
}

/// The delete of the application, or of a marker in it, may fail at the end of a rollback.
#[test]
fn what_a_rollback_could_not_remove_goes_with_the_next() {
    let world = World::some(&[1]);
    world.config(&config("keep", "mode = \"keys\""));
    world.run().expect(0);
    world.target.tts.on_call(|call| {
        let end = call.method.ends_with("v3.ApplicationRegistry/Delete")
            || (call.method.ends_with("v3.EndDeviceRegistry/Delete") && about_marker(call));
        end.then_some(Fault::Status(Code::Unavailable))
    });
    world.call("rollback", &["--yes"]).expect(0).says("1 device brought back").says("stays on the target");
    world.target.tts.unhook();
    world.call("rollback", &["--yes"]).expect(0).says("nothing to bring back").says("fleet-lab removed");
    assert_eq!(world.target.count(Table::Is, APP), 0, "the marker is gone");
}

/// What somebody has removed from the target is in the journal alone.
#[test]
fn a_device_whose_copy_is_gone_comes_back_from_the_seal() {
    for (mode, session) in [("keys", "keep"), ("delete", "keep"), ("keys", "drop")] {
        let world = World::some(&[1, 2]);
        world.config(&format!(
            "[transform]\nsession = \"{session}\"\n[clear]\nmode = \"{mode}\"\nwhen = \"verified\"\n"
        ));
        let before = world.source.record(Table::Ns, APP, &dev(2)).expect("there");
        let key = world.source.record(Table::Js, APP, &dev(1)).expect("OTAA");
        world.run().expect(0);
        for number in [1, 2] {
            for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
                world.target.remove(table, APP, &dev(number));
            }
        }
        world.call("rollback", &["--dry-run"]).says("the target's record is gone, and not by us");
        world.call("rollback", &["--yes"]).expect(0);
        let js = world.source.record(Table::Js, APP, &dev(1)).expect("it is back");
        let root = |js: &prost_reflect::DynamicMessage| path::bytes(js, "root_keys.app_key.key");
        assert_eq!(root(&js), root(&key), "{mode}");
        let ns = world.source.record(Table::Ns, APP, &dev(2)).expect("it is back");
        assert!(!is_muted(&ns), "{mode}");
        let of = |ns: &prost_reflect::DynamicMessage, at: &str| path::number(ns, at);
        assert_eq!(of(&ns, "session.last_f_cnt_up"), of(&before, "session.last_f_cnt_up"), "{mode}");
        let at = "session.last_n_f_cnt_down";
        assert!(of(&ns, at) >= of(&before, at) + 1000, "{mode}: downlinks are ahead of what was sent there");
        world.call("rollback", &["--yes"]).expect(0);
    }
}
