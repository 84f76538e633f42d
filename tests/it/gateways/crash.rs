//! The program is killed at every call about gateways; the same command ends in the same state (S5).

use std::{
    fs,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost_reflect::DynamicMessage;
use stackferry::{map::path, rehearsal::CallInfo};

use super::{
    cups::{CUPS, managed},
    scene::{MANAGED, config, expected, gateway, keys, same, stored, world, world_of_cups},
};
use crate::world::{Ran, Side, World};

/// Kills the program at the n-th write about gateways at a side, before or after it is applied; true when it came to that.
fn run_and_kill(world: &World, side: &Side, verb: &str, n: usize, applied: bool) -> bool {
    let running: Arc<Mutex<Option<Child>>> = Arc::default();
    let count = Arc::new(Mutex::new(0));
    let kill = {
        let (running, count) = (Arc::clone(&running), Arc::clone(&count));
        move |call: &CallInfo| {
            if call.is_write && call.rpc().starts_with("Gateway") {
                let mut count = count.lock().expect("whole");
                *count += 1;
                if *count == n
                    && let Some(child) = &mut *running.lock().expect("whole")
                {
                    child.kill().expect("it runs");
                }
            }
        }
    };
    if applied {
        side.tts.on_applied(kill);
    } else {
        side.tts.on_call(move |call| {
            kill(call);
            None
        });
    }
    // Held until it is known whom to kill.
    let mut known = running.lock().expect("whole");
    let mut command = world.command(verb);
    *known =
        Some(command.arg("--yes").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts"));
    drop(known);
    while running.lock().expect("whole").as_mut().expect("ours").try_wait().expect("ours").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let child = running.lock().expect("whole").take().expect("ours");
    let _ = Ran::of(child.wait_with_output().expect("ended"));
    side.tts.unhook();
    let count = *count.lock().expect("whole");
    count >= n
}

#[test]
fn a_kill_at_any_call_resumes_to_the_same_end_there_and_back() {
    let mut kills = 0;
    for n in 1.. {
        let world = world();
        config(
            &world,
            "ids = [\"roof-2\"]\napi-keys = [\"lns\", \"cups\"]\n[people]\nusers = { admin = \"admin\" }",
            "",
        );
        let there = run_and_kill(&world, &world.target, "run", n, n % 2 == 0);
        world.run().expect(0);
        assert_eq!(
            keys(&world.target, MANAGED).len(),
            2,
            "one key for each purpose after a kill at call {n}"
        );
        let file = world.dir.path().join("gateway-keys.csv");
        let held = fs::read_to_string(&file).expect("there");
        assert_eq!(held.lines().count(), 3);
        let mut found = stored(&world, MANAGED);
        let secret = String::from_utf8(path::bytes(&found, "lbs_lns_secret.value")).expect("a key");
        assert!(
            held.lines().any(|line| line.contains(",lns,") && line.ends_with(&secret)),
            "CUPS hands out the key"
        );
        let mut wanted = expected(&world, MANAGED, MANAGED);
        [&mut found, &mut wanted].into_iter().for_each(|gateway| path::clear(gateway, "lbs_lns_secret"));
        same(&found, &wanted);
        let writes = world.target.writes().len();
        world.run().expect(0);
        assert_eq!(world.target.writes().len(), writes, "S6 after a kill at call {n}");
        let back = run_and_kill(&world, &world.target, "rollback", n, n % 2 == 1);
        world.call("rollback", &["--yes"]).expect(0);
        assert!(path::has(&gateway(&world.target, MANAGED).expect("taken"), "deleted_at"), "{n}");
        assert_eq!(keys(&world.target, MANAGED), []);
        if n == 3 {
            // A rollback that was interrupted, and a user who has changed his mind.
            fs::remove_file(&file).expect("ours");
            world.run().expect(0);
            run_and_kill(&world, &world.target, "rollback", 3, false);
            // Where the gateway was deleted and that was not recorded, the first run finds it gone.
            world.run();
            world.run().expect(0);
            let there = path::bytes(&stored(&world, MANAGED), "lbs_lns_secret.value");
            let held = fs::read_to_string(&file).expect("there");
            assert!(
                held.contains(std::str::from_utf8(&there).expect("a key")),
                "the new key, not the one that is gone"
            );
            world.call("rollback", &["--yes"]).expect(0);
        }
        fs::remove_file(file).expect("ours");
        if !there && !back {
            break;
        }
        kills += usize::from(there) + usize::from(back);
    }
    println!("gateways: {kills} kills, 0 violations");
    assert!(kills >= 6, "{kills}");
}

/// The source's record of a gateway, without what the server stamps.
fn at_source(world: &World, id: &str) -> DynamicMessage {
    let mut gateway = gateway(&world.source, id).expect("its ID stays taken");
    ["created_at", "updated_at"].iter().for_each(|at| path::clear(&mut gateway, at));
    gateway
}

#[test]
fn a_kill_right_after_a_write_at_the_source_resumes_to_the_same_end_there_and_back() {
    // There: the redirect, and the deletion; back: the restore, and the write of EUI and address.
    for n in [1, 2] {
        let world = world_of_cups();
        managed(&world, "roof-3", 3);
        let before = at_source(&world, "roof-3");
        world.target.tts.connect_gateway("roof-3", true).expect("memory");
        world.source.tts.connect_gateway("roof-3", false).expect("memory");
        let clear = "[clear]\nmode = \"keys\"\ngateways = \"delete\"";
        config(&world, &format!("ids = [\"roof-3\"]\n{CUPS}"), clear);
        assert!(run_and_kill(&world, &world.source, "run", n, true), "{n}");
        world.run().expect(0);
        let gone = at_source(&world, "roof-3");
        assert!(path::has(&gone, "deleted_at") && !path::has(&gone, "ids.eui"), "{n}");
        assert_eq!(path::string(&gone, "target_cups_uri"), "https://127.0.0.1:443", "{n}");
        let writes = world.source.writes();
        assert_eq!(
            writes.iter().filter(|rpc| rpc.contains("GatewayRegistry")).count(),
            2,
            "once each: {writes:?}"
        );
        world.target.tts.connect_gateway("roof-3", false).expect("memory");
        assert!(run_and_kill(&world, &world.source, "rollback", n, true), "{n}");
        world.call("rollback", &["--yes"]).expect(0);
        same(&at_source(&world, "roof-3"), &before);
        assert!(path::has(&gateway(&world.target, "roof-3").expect("taken"), "deleted_at"), "{n}");
    }
    println!("gateways at the source: 4 kills, 0 violations");
}
