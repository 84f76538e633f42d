//! Devices that join, send and are sent to between any two calls of a run, and an auditor that knows only what the
//! servers stored.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use stackferry::rehearsal::{
    auditor::{Auditor, Side, prove_alive},
    store::{Table, device_key},
};

use crate::world::{
    APP, World, dev,
    traffic::{Field, terms},
};

fn run_with_traffic(numbers: &[usize], config: &str, seed: u64) {
    let world = World::some(numbers);
    world.config(config);
    let auditor = Auditor::new(terms());
    auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
    let field = Arc::new(Mutex::new(Field::new(&world, numbers, seed)));
    let calls = Arc::new(AtomicU64::new(0));
    for side in [&world.source, &world.target] {
        let (field, calls) = (Arc::clone(&field), Arc::clone(&calls));
        side.tts.on_call(move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
            field.lock().unwrap_or_else(PoisonError::into_inner).stir();
            None
        });
    }
    // Devices that are just joining have to wait: the same command goes on until all are over.
    let mut last = String::new();
    for _ in 0..12 {
        let ran = world.run();
        last = format!("{}\n{}", ran.out, ran.err);
        assert!(matches!(ran.code, Some(0 | 3)), "seed {seed}:\n{last}");
        if world.target.count(Table::Ns, APP) == numbers.len()
            && ran.code == Some(0)
            && !ran.out.contains("waiting")
        {
            break;
        }
        let mut field = field.lock().unwrap_or_else(PoisonError::into_inner);
        (0..100).for_each(|_| field.stir());
    }
    let mut field = field.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(field.wrong, [""; 0], "seed {seed}: the air");
    assert_eq!(world.target.count(Table::Ns, APP), numbers.len(), "seed {seed}: not all moved:\n{last}");
    let Field { ether, devices, .. } = &mut *field;
    for device in devices {
        let proof = prove_alive(ether, device).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{last}"));
        assert_eq!(proof.network, "target", "seed {seed}");
    }
    let breaches: Vec<_> = auditor.finish().iter().map(ToString::to_string).collect();
    assert_eq!(breaches, [""; 0], "seed {seed}");
    assert!(calls.load(Ordering::SeqCst) > 50, "there was no traffic");
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
