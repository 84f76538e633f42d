//! Moves inside one deployment, where nothing can exist twice.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use stackferry::rehearsal::{Fault, store::Table};
use tonic::Code;

use crate::world::{APP, OTHER_APP, Ran, World, dev, is_muted, traffic::Watched};

const CONFIG: &str =
    "[transform]\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"delete\"\n";
const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];
/// One of each kind of the fixture.
const KINDS: [usize; 10] = [0, 1, 2, 13, 4, 5, 6, 7, 8, 9];

fn swapped(world: &World, numbers: &[usize]) {
    assert_eq!(TABLES.map(|t| world.source.count(t, APP)), [0; 4], "left at the source");
    assert_eq!(world.target.count(Table::Ns, OTHER_APP), numbers.len(), "on the target");
}

#[test]
fn a_fleet_moves_to_another_application_under_traffic() {
    for seed in 1..=2 {
        let world = World::one_deployment(&KINDS);
        world.config_to(OTHER_APP, CONFIG);
        let watched = Watched::swap(world, &KINDS, seed);
        watched.until_done("run");
        swapped(&watched.world, &KINDS);
        watched.prove("both");
        let writes = watched.world.source.writes().len();
        watched.world.run().expect(0).says("done before");
        assert_eq!(watched.world.source.writes().len(), writes, "a second run writes nothing");
    }
}

#[test]
fn a_rollback_brings_it_back_under_traffic() {
    for seed in 4..=5 {
        let world = World::one_deployment(&KINDS);
        world.config_to(OTHER_APP, CONFIG);
        let watched = Watched::swap(world, &KINDS, seed);
        watched.until_done("run");
        watched.stir(200);
        watched.until_done("rollback");
        assert_eq!(TABLES.map(|t| watched.world.target.count(t, OTHER_APP)), [0; 4], "left on the target");
        watched.prove("both");
        watched.until_done("run");
        swapped(&watched.world, &KINDS);
        watched.prove("both");
    }
}

#[test]
fn it_asks_for_the_deletion_and_for_another_application() {
    let world = World::one_deployment(&[1]);
    world.config_to(OTHER_APP, "[clear]\nmode = \"keys\"\n");
    world.run().expect(3).says("same-deployment").says("clear.mode = \"delete\"");
    world.config_to(APP, CONFIG);
    world.run().expect(3).says("the same application");
    assert_eq!(world.source.writes(), [""; 0]);
}

#[test]
fn what_the_target_refuses_comes_back_to_the_source() {
    for step in ["v3.EndDeviceRegistry/Create", "v3.JsEndDeviceRegistry/Set", "v3.NsEndDeviceRegistry/Set"] {
        let world = World::one_deployment(&[1, 11]);
        world.config_to(OTHER_APP, CONFIG);
        let refuse = Arc::new(AtomicUsize::new(0));
        let refused = Arc::clone(&refuse);
        world.target.tts.on_call(move |call| {
            let here = call.method.ends_with(step) && call.entity.contains("fleet-lab-2.dev-");
            here.then(|| {
                refused.fetch_add(1, Ordering::SeqCst);
                Fault::Error(Code::InvalidArgument, "pkg/networkserver", "field_value")
            })
        });
        world.run().expect(3).says("field_value").says("2 devices not moved");
        assert!(refuse.load(Ordering::SeqCst) >= 2);
        assert_eq!(TABLES.map(|t| world.target.count(t, OTHER_APP)), [0; 4], "{step}: left on the target");
        for number in [1, 11] {
            let ns = world.source.record(Table::Ns, APP, &dev(number)).expect("it is back");
            assert!(!is_muted(&ns), "{step}: {number} is still muted");
        }
        world.target.tts.unhook();
        world.run().expect(0).says("2 devices moved");
    }
}

/// Killed between the delete and the create, the journal alone has the device: both directions go on from it.
#[test]
fn a_device_that_is_nowhere_is_recovered_from_the_journal_either_way() {
    for verb in ["run", "rollback"] {
        let world = World::one_deployment(&[1]);
        world.config_to(OTHER_APP, CONFIG);
        let pid = Arc::new(AtomicU32::new(0));
        let kill = Arc::clone(&pid);
        world.target.tts.on_call(move |call| {
            let now = call.method.ends_with("v3.EndDeviceRegistry/Create") && call.entity.contains(".dev-");
            now.then(|| {
                while kill.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let _ = Command::new("kill").args(["-9", &kill.load(Ordering::SeqCst).to_string()]).status();
                Fault::CutBefore
            })
        });
        let child = world.start();
        pid.store(child.id(), Ordering::SeqCst);
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, None, "it was killed");
        for app in [APP, OTHER_APP] {
            let there = TABLES.map(|t| world.source.record(t, app, &dev(1)).is_some());
            assert_eq!(there, [false; 4], "it is nowhere");
        }
        world.target.tts.unhook();
        world.call(verb, &["--yes"]).expect(0);
        let app = if verb == "run" { OTHER_APP } else { APP };
        assert_eq!(TABLES.map(|t| world.source.count(t, app)), [1; 4], "{verb}");
        let ns = world.source.record(Table::Ns, app, &dev(1)).expect("it is back");
        assert!(!is_muted(&ns), "{verb}");
    }
}

#[test]
fn a_rehearsal_of_it_moves_between_applications_of_one_embedded_stack() {
    let world = World::one_deployment(&[1, 2]);
    world.config_to(OTHER_APP, CONFIG);
    world.call("rehearse", &[]).expect(0).says("2 devices moved").says("same-deployment");
    assert_eq!(world.source.writes(), [""; 0], "the real side is only read");
}
