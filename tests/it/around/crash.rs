//! The program is killed at every call about what is around the devices; the same command ends in the same state (S5).

use std::{
    process::Child,
    sync::{Arc, Mutex},
    time::Duration,
};

use stackferry::rehearsal::{CallInfo, store::Table};

use super::scene::{config_of, downlink_keys, everything, held};
use crate::world::{APP, Ran, World};

/// As little as has every sort of call: one of each kind, but for activation settings, which have no call of their own sort.
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
    world.source.tts.store().remove(Table::ActivationSettings, APP).expect("memory");
    world
}

fn is_around(call: &CallInfo) -> bool {
    let registries = [
        "ApplicationAccess",
        "WebhookRegistry",
        "PubSubRegistry",
        "PackageRegistry",
        "ActivationSettingRegistry",
    ];
    let alone = ["As/SetLink", "ApplicationRegistry/Update"].contains(&call.rpc());
    let of_one = registries.iter().any(|r| call.rpc().split('/').next().is_some_and(|s| s.ends_with(r)));
    call.is_write && (alone || of_one)
}

/// Kills the program at the n-th such call on either side, before or after it is applied; true when it came to that.
pub(super) fn run_and_kill(world: &World, verb: &str, n: usize, applied: bool) -> bool {
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
    // One world for all: after each way back both sides are as they were.
    let world = small();
    config_of(
        &world,
        &[1],
        "",
        "[integrations]\npaused = true\n[clear]\nmode = \"keys\"\nintegrations = \"delete\"",
    );
    let source = held(&world.source);
    let mut kills = 0;
    for n in 1.. {
        let there = run_and_kill(&world, "run", n, n % 4 < 2);
        // The other half goes back right from where the kill left it.
        if n % 2 == 0 {
            world.run().expect(0);
            let copies = held(&world.target);
            assert_eq!(copies.keys().filter(|k| !k.starts_with("ApiKeys")).count(), 5, "{:?}", copies.keys());
            assert_eq!(downlink_keys(&world).len(), 1);
        }
        let back = run_and_kill(&world, "rollback", n, n % 4 > 1);
        world.call("rollback", &["--yes"]).expect(0);
        assert_eq!(held(&world.source), source, "after a kill at call {n}");
        let left = held(&world.target);
        assert!(
            left.keys().all(|k| k.starts_with("Links") || k.starts_with("ApiKeys usr")),
            "{:?}",
            left.keys()
        );
        if !there && !back {
            break;
        }
        kills += usize::from(there) + usize::from(back);
    }
    println!("around the devices: {kills} kills, 0 violations");
    assert!(kills >= 10, "{kills}");
}
