//! Devices that join, send and are sent to between any two calls of a run, and an auditor that knows only what the
//! servers stored.

use stackferry::rehearsal::{
    auditor::{Auditor, Side},
    store::{Table, device_key},
};

use crate::world::{
    APP, World, dev,
    traffic::{Watched, terms},
};

fn run_with_traffic(numbers: &[usize], config: &str, seed: u64) {
    let world = World::some(numbers);
    world.config(config);
    let watched = Watched::new(world, numbers, seed);
    let last = watched.until_done("run");
    let world = &watched.world;
    assert_eq!(
        world.target.count(Table::Ns, APP),
        numbers.len(),
        "seed {seed}: not all moved:\n{}",
        last.out
    );
    watched.prove("target");
}

/// One of each kind of the fixture, without queued downlinks at the start.
const KINDS: [usize; 10] = [0, 1, 2, 13, 4, 5, 6, 7, 8, 9];

#[test]
fn kept_sessions_go_on_under_traffic() {
    for seed in 1..=3 {
        run_with_traffic(
            &KINDS,
            "[transform]\nsession = \"keep\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"keys\"\n",
            seed,
        );
    }
}

#[test]
fn dropped_sessions_join_again_under_traffic() {
    for seed in 11..=13 {
        run_with_traffic(
            &KINDS,
            "[transform]\nsession = \"drop\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"keys\"\n",
            seed,
        );
    }
}

#[test]
fn the_auditor_is_not_asleep() {
    let world = World::some(&[1]);
    let auditor = Auditor::new(terms());
    auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
    world.source.tts.store().remove(Table::Js, &device_key(APP, &dev(1))).expect("memory");
    assert!(!auditor.breaches().is_empty(), "keys left the source before the target had them");
}
