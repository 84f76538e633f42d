//! The program is killed at every call that changes something between the muted copy and its going live; the same command
//! ends in the same state (S5).

use std::{
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use stackferry::rehearsal::{CallInfo, store::Table};

use crate::world::{
    Ran, is_muted,
    v2::{V2World, WatchedV2},
};

const CONFIG: &str = r#"
[[application]]
source = "fleet-v2"

[transform]
frequency-plan = { default = "EU_863_870_TTN" }

[rollout]
in-flight = 1
"#;

/// When the program is killed: at the n-th call that changes something (of either side, also for the application and the
/// lock), before or after it is applied.
#[derive(Debug, Clone, Copy)]
struct Point {
    n: usize,
    applied: bool,
}

type Running = Arc<Mutex<Option<Child>>>;

/// Kills the program at a point; true when it came to that.
fn run_and_kill(world: &V2World, point: Point) -> bool {
    let running: Running = Arc::default();
    let count = Arc::new(Mutex::new(0));
    let hit = Arc::new(Mutex::new(false));
    let kill = {
        let (running, count, hit) = (Arc::clone(&running), Arc::clone(&count), Arc::clone(&hit));
        move |call: &CallInfo| {
            if !call.is_write || call.method.starts_with("/discovery") {
                return;
            }
            let mut count = count.lock().expect("whole");
            *count += 1;
            if *count == point.n {
                *hit.lock().expect("whole") = true;
                if let Some(child) = &mut *running.lock().expect("whole") {
                    child.kill().expect("it runs");
                }
            }
        }
    };
    let kill = Arc::new(kill);
    for before in [true, false] {
        let (of_v2, of_target) = (Arc::clone(&kill), Arc::clone(&kill));
        if before && !point.applied {
            world.v2.on_call(move |call| {
                of_v2(call);
                None
            });
            world.target.tts.on_call(move |call| {
                of_target(call);
                None
            });
        } else if !before && point.applied {
            world.v2.on_applied(move |call| of_v2(call));
            world.target.tts.on_applied(move |call| of_target(call));
        }
    }
    let child = world.command("run").arg("--yes").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    *running.lock().expect("whole") = Some(child.expect("it starts"));
    loop {
        let ended = running.lock().expect("whole").as_mut().expect("ours").try_wait().expect("ours");
        if ended.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let child = running.lock().expect("whole").take().expect("ours");
    let _ = Ran::of(child.wait_with_output().expect("ended"));
    world.v2.unhook();
    world.target.tts.unhook();
    *hit.lock().expect("whole")
}

/// Kills at every write of a device's move, before or after it is applied; answers how often.
fn sweep(id: &str, applied: bool) -> usize {
    for n in 1.. {
        let watched = WatchedV2::new(V2World::some(&[id]), n as u64);
        watched.world.v2.unhook();
        watched.world.target.tts.unhook();
        watched.world.config(CONFIG);
        if !run_and_kill(&watched.world, Point { n, applied }) {
            return n - 1;
        }
        watched.world.run().expect(0);
        let ns = watched.world.on_target(Table::Ns, id).unwrap_or_else(|| panic!("{id} at {n}"));
        assert!(!is_muted(&ns), "{id} is muted after a kill at write {n}");
        let before = watched.world.writes();
        watched.world.run().expect(0);
        assert_eq!(watched.world.writes(), before, "S6 after a kill at write {n}");
        watched.prove("target");
    }
    unreachable!("a run has an end")
}

#[test]
fn a_kill_at_any_write_resumes_to_the_same_end() {
    let kills: Vec<_> = [("node-001", true), ("node-000", false), ("abp-003", true)]
        .into_iter()
        .map(|(id, applied)| sweep(id, applied))
        .collect();
    println!("mute-target: kills at every write of three moves: {kills:?}, 0 violations");
    assert!(kills.iter().all(|kills| *kills >= 10), "{kills:?}");
}
