//! The program is killed at every call about what is around the devices; the same command ends in the same state (S5).

use std::{
    process::Child,
    sync::{Arc, Mutex},
    time::Duration,
};

use stackferry::rehearsal::{CallInfo, store::Table};

use super::scene::{all_copied, config, everything, writes};
use crate::world::{APP, Ran, World};

/// As little as has every sort of call: one of each kind.
fn small() -> World {
    let world = everything();
    for (table, key) in [
        (Table::Webhooks, "hook-full"),
        (Table::Webhooks, "hook-paused"),
        (Table::PubSubs, "pubsub-0"),
        (Table::PubSubs, "nats-main"),
        (Table::PackageDefaults, "199"),
        (Table::Packages, "dev-00003.197"),
    ] {
        world.source.remove(table, APP, key);
    }
    world
}

fn is_around(call: &CallInfo) -> bool {
    let registries =
        ["ApplicationAccess", "WebhookRegistry", "PubSubRegistry", "PackageRegistry", "ActivationSettingRegistry"];
    call.is_write && registries.iter().any(|r| call.rpc().split('/').next().is_some_and(|s| s.ends_with(r)))
}

/// Kills the program at the n-th such call on either side, before or after it is applied; true when it came to that.
fn run_and_kill(world: &World, verb: &str, n: usize, applied: bool) -> bool {
    let running: Arc<Mutex<Option<Child>>> = Arc::default();
    let count = Arc::new(Mutex::new(0));
    let kill = {
        let (running, count) = (Arc::clone(&running), Arc::clone(&count));
        Arc::new(move |call: &CallInfo| {
            if is_around(call) {
                let mut count = count.lock().expect("whole");
                *count += 1;
                if *count == n
                    && let Some(child) = &mut *running.lock().expect("whole")
                {
                    child.kill().expect("it runs");
                }
            }
        })
    };
    for side in [&world.source, &world.target] {
        let kill = Arc::clone(&kill);
        if applied {
            side.tts.on_applied(move |call| kill(call));
        } else {
            side.tts.on_call(move |call| {
                kill(call);
                None
            });
        }
    }
    // Held until it is known whom to kill.
    let mut known = running.lock().expect("whole");
    let mut command = world.command(verb);
    let piped = || std::process::Stdio::piped();
    *known = Some(command.arg("--yes").stdout(piped()).stderr(piped()).spawn().expect("it starts"));
    drop(known);
    while running.lock().expect("whole").as_mut().expect("ours").try_wait().expect("ours").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let child = running.lock().expect("whole").take().expect("ours");
    let _ = Ran::of(child.wait_with_output().expect("ended"));
    [&world.source, &world.target].iter().for_each(|side| side.tts.unhook());
    *count.lock().expect("whole") >= n
}

#[test]
fn a_kill_at_any_call_resumes_to_the_same_end_there_and_back() {
    let mut kills = 0;
    for n in 1.. {
        let world = small();
        config(&world, "", "[integrations]\npaused = true\n[clear]\nmode = \"keys\"\nintegrations = \"delete\"");
        let source = super::scene::held(&world.source);
        let there = run_and_kill(&world, "run", n, n % 2 == 0);
        // The first look at what is left tells what the kill left; the source is compared below.
        world.run().expect(0);
        let copies = super::scene::held(&world.target);
        assert_eq!(copies.keys().filter(|k| !k.starts_with("ApiKeys")).count(), 6, "{:?}", copies.keys());
        super::scene::downlink_keys(&world);
        let before = writes(&world);
        world.run().expect(0);
        assert_eq!(writes(&world), before, "S6 after a kill at call {n}");
        let back = run_and_kill(&world, "rollback", n, n % 2 == 1);
        world.call("rollback", &["--yes"]).expect(0);
        assert_eq!(super::scene::held(&world.source), source, "after a kill of the way back at call {n}");
        let left = super::scene::held(&world.target);
        assert!(left.keys().all(|k| k.starts_with("Links") || k.starts_with("ApiKeys usr")), "{:?}", left.keys());
        if !there && !back {
            break;
        }
        kills += usize::from(there) + usize::from(back);
        if n == 1 {
            world.run().expect(0);
            let mut again = super::scene::held(&world.target);
            again.retain(|k, _| copies.contains_key(k));
            assert!(again.len() >= 6, "it goes again");
        }
    }
    println!("around the devices: {kills} kills, 0 violations");
    assert!(kills >= 16, "{kills}");
}

#[test]
fn small_is_copied_whole() {
    let world = small();
    config(&world, "", "");
    world.run().expect(0);
    all_copied(&world);
}
