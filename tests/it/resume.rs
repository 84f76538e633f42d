//! Killed anywhere, the same command ends in the same state.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost_reflect::DynamicMessage;
use stackferry::rehearsal::{Fault, store::Table};

use crate::world::{APP, Ran, World};

/// OTAA with its session kept, OTAA, ABP.
const DEVICES: [usize; 3] = [1, 4, 2];
const CONFIG: &str = "[transform]\nsession = \"keep\"\n[rollout]\nin-flight = 2\n[clear]\nmode = \"keys\"\n";

/// Kills the client with SIGKILL at its `n`-th call to either side: every other time the call is applied all the same.
fn kill_at(world: &World, n: usize) -> (Arc<AtomicU32>, Arc<AtomicUsize>) {
    let (pid, seen) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicUsize::new(0)));
    for side in [&world.source, &world.target] {
        let (pid, seen) = (Arc::clone(&pid), Arc::clone(&seen));
        side.tts.on_call(move |_| {
            if seen.fetch_add(1, Ordering::SeqCst) + 1 == n {
                while pid.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let pid = pid.load(Ordering::SeqCst).to_string();
                let _ = Command::new("kill").args(["-9", &pid]).status();
                return Some(if n.is_multiple_of(2) { Fault::CutAfter } else { Fault::CutBefore });
            }
            None
        });
    }
    (pid, seen)
}

fn stored(world: &World) -> Vec<(Table, String, DynamicMessage)> {
    let mut all = Vec::new();
    for (side, name) in [(&world.source, "source"), (&world.target, "target")] {
        let store = side.tts.store();
        for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
            for (key, message) in store.iter(table).filter(|(k, _)| k.starts_with(APP)) {
                let mut message = message.clone();
                for time in ["created_at", "updated_at"] {
                    message.clear_field_by_name(time);
                }
                all.push((table, format!("{name} {key}"), message));
            }
        }
    }
    all
}

#[test]
fn a_kill_at_any_call_ends_in_the_same_state() {
    let reference = World::some(&DEVICES);
    reference.config(CONFIG);
    let (_, seen) = kill_at(&reference, 0);
    reference.run().expect(0);
    let calls = seen.load(Ordering::SeqCst);
    let expected = stored(&reference);

    // Every call would take minutes here; every fifth, until a run is over before its turn comes, meets each kind of step.
    let mut kills = 0;
    for n in (1..).step_by(5) {
        let world = World::some(&DEVICES);
        world.config(CONFIG);
        let (pid, _) = kill_at(&world, n);
        let child = world.start();
        pid.store(child.id(), Ordering::SeqCst);
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        let untouched = ran.code == Some(0);
        assert!(untouched || ran.code.is_none(), "call {n}: it was killed\n{}", ran.err);
        world.run().expect(0);
        assert_eq!(stored(&world), expected, "after a kill at call {n}");
        if untouched {
            break;
        }
        kills += 1;
    }
    assert!(kills * 5 + 25 > calls, "{kills} kills over {calls} calls");
}

#[test]
fn ctrl_c_drains_and_the_same_command_goes_on() {
    let world = World::fleet();
    world.config("[transform]\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"keys\"\nwhen = \"verified\"\n");
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
    while !world.dir.path().join("test.journal.lock").exists() {
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
