//! A state-machine property test: commands, kills, traffic and people who edit devices on either side, in any order.
//!
//! After each operation: no promise is broken, and what a person changed is still there, or was carried to the other
//! side, or a command has named it. A failure is shrunk to the shortest list of operations that still fails.
//!
//! `STACKFERRY_MACHINE=7` plays the history of seed 7 alone, `STACKFERRY_MACHINE_HISTORIES=200` the first 200.

mod edits;
mod play;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use crate::process::number;
use edits::Change;
use play::{Played, play};

/// Histories without an environment variable.
const HISTORIES: u64 = if cfg!(debug_assertions) { 4 } else { 80 };
/// At once; they wait for processes most of the time.
const AT_ONCE: usize = if cfg!(debug_assertions) { 4 } else { 8 };
/// So often a failing history is played again to shorten it.
const SHRINKS: u32 = 48;
/// One operation of a history.
#[derive(Debug, Clone)]
enum Op {
    Plan,
    /// Also what goes on after a kill.
    Run,
    /// A command that is killed at its n-th call, every other time after the call took effect.
    Kill(&'static str, usize),
    Verify,
    Status,
    Hold(bool),
    Clear,
    /// One device, or the whole application.
    Rollback(Option<usize>),
    /// The air is stirred so many times.
    Traffic(usize),
    /// Somebody changes a device. Nothing happens when what they want to change is not there.
    Edit {
        target: bool,
        device: usize,
        change: Change,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let change = prop_oneof![
        4 => Just(Change::Name),
        2 => Just(Change::Key),
        2 => Just(Change::Counter),
        1 => any::<bool>().prop_map(Change::Mute),
        1 => (0..4usize).prop_map(Change::Delete),
    ];
    let edit = (any::<bool>(), 0..play::DEVICES.len(), change);
    let verb = prop::sample::select(&["run", "run", "run", "rollback", "clear"][..]);
    prop_oneof![
        1 => Just(Op::Plan),
        3 => Just(Op::Run),
        4 => (verb, 1..200usize).prop_map(|(verb, n)| Op::Kill(verb, n)),
        1 => Just(Op::Verify),
        1 => Just(Op::Status),
        1 => any::<bool>().prop_map(Op::Hold),
        1 => Just(Op::Clear),
        2 => prop::option::of(0..play::DEVICES.len()).prop_map(Op::Rollback),
        2 => (1..60usize).prop_map(Op::Traffic),
        6 => edit.prop_map(|(target, device, change)| Op::Edit { target, device, change }),
    ]
}

/// What the user wants of a history.
#[derive(Debug, Clone)]
struct Wanted {
    session: &'static str,
    mode: &'static str,
    when: &'static str,
    hold: bool,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    (
        prop::sample::select(&["keep", "drop"][..]),
        prop::sample::select(&["keys", "delete", "nothing"][..]),
        prop::sample::select(&["", "when = \"seen\"", "when = \"verified\""][..]),
        any::<bool>(),
    )
        .prop_map(|(session, mode, when, hold)| Wanted { session, mode, when, hold })
}

#[test]
fn what_people_do_is_never_undone_silently() {
    let alone = number("STACKFERRY_MACHINE");
    let count = number("STACKFERRY_MACHINE_HISTORIES").unwrap_or(HISTORIES);
    let seeds: Vec<u64> = alone.map_or_else(|| (1..=count).collect(), |seed| vec![seed]);
    let (next, done) = (AtomicU64::new(0), Mutex::new((Played::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    let result = history(*seed);
                    let (all, failed) = &mut *done.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(played) => all.add(&played),
                        Err(why) => failed.push(format!("seed {seed}: {why}")),
                    }
                }
            });
        }
    });
    let (all, failed) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("machine: {} histories, {all}, {} violations", seeds.len(), failed.len());
    let what = failed.join("\n\n");
    assert!(failed.is_empty(), "each again with STACKFERRY_MACHINE=SEED:\n{what}");
    assert!(alone.is_some() || all.edits > 0 && all.kills > 0, "nobody edited, or nothing was killed");
}

fn history(seed: u64) -> Result<Played, String> {
    let config =
        Config { cases: 1, max_shrink_iters: SHRINKS, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let played = Mutex::new(Played::default());
    let result = TestRunner::new_with_rng(config, rng).run(
        &(wanted(), prop::collection::vec(op(), 5..14)),
        |(wanted, ops)| {
            // Told at once: to shorten a failing history takes its time.
            let one = play(seed, &wanted, &ops).map_err(|why| {
                eprintln!("seed {seed}: {why}\n{wanted:?}\n{ops:?}");
                TestCaseError::fail(why)
            })?;
            *played.lock().unwrap_or_else(PoisonError::into_inner) = one;
            Ok(())
        },
    );
    match result {
        Ok(()) => Ok(played.into_inner().unwrap_or_else(PoisonError::into_inner)),
        Err(TestError::Fail(why, (wanted, ops))) => {
            let ops: Vec<_> = ops.iter().map(|op| format!("  {op:?}")).collect();
            Err(format!("{why}\n{wanted:?}\n{}", ops.join("\n")))
        }
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}
