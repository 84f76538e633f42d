//! Interrupted, the same command goes on. Killed at every point: `tests/crash/sweep`.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost_reflect::Value;
use stackferry::{
    map::path,
    rehearsal::{Fault, store::Table},
};

use crate::world::{APP, Ran, World, dev};

/// OTAA with its session kept, OTAA, ABP.
const DEVICES: [usize; 3] = [1, 4, 2];
const CONFIG: &str = "[transform]\nsession = \"keep\"\n[rollout]\nin-flight = 2\n[clear]\nmode = \"keys\"\n";

#[test]
fn a_device_that_sent_before_its_create_was_known_is_not_taken_for_edited() {
    let world = World::some(&[2]);
    world.config(CONFIG);
    let pid = Arc::new(AtomicU32::new(0));
    let client = Arc::clone(&pid);
    world.target.tts.on_call(move |call| {
        call.method.ends_with("NsEndDeviceRegistry/Set").then(|| {
            while client.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = Command::new("kill").args(["-9", &client.load(Ordering::SeqCst).to_string()]).status();
            Fault::CutAfter
        })
    });
    let child = world.start();
    pid.store(child.id(), Ordering::SeqCst);
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, None, "it was killed");
    world.target.tts.unhook();
    // It is live there: its first uplink is noted at the IS.
    world.target.edit(Table::Is, APP, &dev(2), |is| {
        let mut seen = path::get(is, "created_at").expect("the server sets it").into_owned();
        if let Some(seen) = seen.as_message_mut() {
            seen.set_field_by_name("nanos", Value::I32(1));
        }
        path::set(is, "last_seen_at", seen.clone());
        path::set(is, "activated_at", seen);
    });
    world.run().expect(0).says("1 device moved");
}

/// The intent of a clear is recorded, its call was lost, and before the next run somebody works on either side.
#[test]
fn a_clear_that_was_interrupted_begins_with_another_look_at_both_sides() {
    for (at_source, name) in [
        (false, "AsEndDeviceRegistry/Delete"),
        (true, "AsEndDeviceRegistry/Delete"),
        (false, "NsEndDeviceRegistry/Delete"),
    ] {
        let world = World::some(&[2]);
        world.config(CONFIG);
        world.source.tts.on_call(move |call| {
            (call.is_write && call.method.ends_with(name)).then_some(Fault::Status(tonic::Code::Unknown))
        });
        world.run().expect(3).says("in the middle");
        world.source.tts.unhook();
        if at_source {
            world.source.edit(Table::Ns, APP, &dev(2), |ns| {
                path::set(ns, "frequency_plan_id", Value::String("US_902_928_FSB_2".to_owned()));
            });
        } else {
            world.target.remove(Table::Ns, APP, &dev(2));
        }
        let ran = world.run().expect(3);
        let left = world.source.record(Table::Ns, APP, &dev(2));
        assert!(left.is_some_and(|ns| path::has(&ns, "session")), "{name}: {ran:?}");
    }
}

#[test]
fn ctrl_c_drains_and_the_same_command_goes_on() {
    let world = World::fleet();
    world.config("[transform]\nallow-loss = [\"picture\", \"queued-downlinks\", \"muted-source\"]\n[clear]\nmode = \"keys\"\nwhen = \"verified\"\n");
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    world.target.tts.on_call(move |call| {
        if call.method.ends_with("NsEndDeviceRegistry/Set") {
            count.fetch_add(1, Ordering::SeqCst);
            return Some(Fault::Delay(Duration::from_millis(5)));
        }
        None
    });
    let child = world.start();
    while begun.load(Ordering::SeqCst) < 5 {
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let ran = Ran::of(child.wait_with_output().expect("it ends")).expect(130);
    let ran = ran.says("the devices in hand are finished first").says("not begun: interrupted");
    assert!(!ran.out.contains("in the middle"), "a drain leaves nothing half done:\n{}", ran.out);
    world.run().expect(0);
    world.call("status", &[]).expect(0).says("100 done");
}

#[test]
fn two_runs_on_one_journal_are_refused() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    world.target.tts.on_call(|_| Some(Fault::Delay(Duration::from_millis(100))));
    let first = world.start();
    // There is a moment between making the file and locking it.
    let lock = world.dir.path().join("test.journal.lock");
    while !std::fs::read_to_string(&lock).is_ok_and(|text| text.contains("held by")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    world.run().expect(6).says("is in use by");
    Ran::of(first.wait_with_output().expect("it ends"));
}

#[test]
fn a_changed_configuration_is_refused_with_what_changed() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    world.run().expect(0);
    world.config(&CONFIG.replace("keep", "drop"));
    world.run().expect(6).says("transform.session");
}
