//! Corrupted journals under the built binary: it refuses by name and sends nothing, or goes on to the right end.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use stackferry::rehearsal::{Fault, auditor::Auditor};

use super::{
    CONFIG, DEVICES, Dice, MORE_MEMORY_THAN_ENOUGH, breaches,
    image::{self, Files, Image},
    seed, shell, stored,
    tamper::{FORGED, Loot, tamper},
    watch, writes,
};
use crate::world::World;

const CASES: usize = 32;

/// A world whose run was killed, with the auditor's eyes on it.
struct Killed {
    world: World,
    auditor: Auditor,
    /// The journal at each call, and as the kill left it.
    taken: Vec<Files>,
}

/// Kills the run at its `n`-th call to either side after it has a journal; the call itself takes effect.
fn killed_at(n: usize) -> Killed {
    let world = World::some(&DEVICES);
    world.config(&CONFIG.replace("in-flight = 1", "in-flight = 2"));
    let auditor = watch(&world);
    let journal = world.dir.path().join("test.journal");
    let (pid, seen) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicUsize::new(0)));
    let taken = Arc::new(Mutex::new(Vec::new()));
    for side in [&world.source, &world.target] {
        let (pid, seen, taken, journal) =
            (Arc::clone(&pid), Arc::clone(&seen), Arc::clone(&taken), journal.clone());
        side.tts.on_call(move |_| {
            let mut taken = taken.lock().expect("no panic");
            if !journal.exists() {
                return None;
            }
            if seen.fetch_add(1, Ordering::SeqCst) + 1 == n {
                while pid.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let pid = pid.load(Ordering::SeqCst).to_string();
                Command::new("kill").args(["-9", &pid]).status().expect("kill");
                return Some(Fault::CutAfter);
            }
            taken.push(image::take(&journal));
            None
        });
    }
    let child = world.start();
    pid.store(child.id(), Ordering::SeqCst);
    child.wait_with_output().expect("it ends");
    for side in [&world.source, &world.target] {
        side.tts.on_call(|_| None);
    }
    let mut taken = std::mem::take(&mut *taken.lock().expect("no panic"));
    taken.push(image::take(&journal));
    Killed { world, auditor, taken }
}

#[test]
fn corruptions_under_the_binary_end_right_or_send_nothing() {
    let seed = seed();
    let whole = killed_at(0);
    let (calls, expected) = (whole.taken.len(), stored(&whole.world));
    let foreign = Image::new(whole.taken[calls / 2].clone());
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for case in 0..CASES {
        let mut dice = Dice::new(seed, 100_000 + case);
        let n = calls / 5 + dice.roll(calls * 4 / 5);
        let Killed { world, auditor, taken } = killed_at(n);
        let (now, older) = (&taken[taken.len() - 1], &taken[dice.roll(taken.len() - 1)]);
        let [now, older] = [now, older].map(|files| Image::new(files.clone()));
        let journal = world.dir.path().join("test.journal");
        let what = tamper(&journal, &Loot { now: &now, older: &older, foreign: &foreign }, &mut dice);
        let what = format!("corruption {case} of seed {seed} after a kill at call {n}, {what}");
        let before = writes(&world);
        let ran = shell(&world, "run", MORE_MEMORY_THAN_ENOUGH, &[]);
        let sent = writes(&world) - before;
        let said = format!("{what}\n{}{}", ran.out, ran.err);
        let named = ran.err.contains("error: journal `") && ran.err.contains("help: ");
        let mut outcome = match ran.code {
            Some(6) => {
                assert!(named && sent == 0, "{sent} write calls without a journal: {said}");
                ran.err
                    .split("journal` ")
                    .nth(1)
                    .and_then(|e| e.split(['\n', ':']).next())
                    .unwrap_or("?")
                    .to_owned()
            }
            Some(0) => "ran to the right end".to_owned(),
            // An older journal, whole and with its lock file, knows less than has happened: it may find what it does
            // not understand, and leaves it alone.
            Some(3) if is_put_back(&what) => "older, whole: devices left alone".to_owned(),
            _ => panic!("{said}"),
        };
        if !matches!(ran.code, Some(0)) {
            // Nothing was made worse: with the journal put back the same command goes on.
            clean(&journal);
            image::put(&now.files, &journal);
            if ran.code == Some(6) {
                world.run().expect(0);
            } else {
                outcome += "; then with the newest one";
                let again = world.run();
                assert!(matches!(again.code, Some(0 | 3)), "{what}: {again:?}");
            }
        }
        assert_eq!(breaches(&auditor), [""; 0], "{said}");
        if !outcome.contains("older") {
            assert_eq!(stored(&world), expected, "{said}");
        }
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    let wrong = CASES - outcomes.values().sum::<usize>();
    println!("journal: {CASES} corruptions under the binary (seed {seed}): {outcomes:?}, {wrong} wrong");
    assert!(outcomes.len() > 4, "{outcomes:?}");
}

/// An older journal with its lock file is whole: no program can tell. Going on from it must break no promise all the same.
#[test]
fn an_older_journal_put_back_whole_breaks_no_promise() {
    let calls = killed_at(0).taken.len();
    let mut codes: BTreeMap<(Option<i32>, Option<i32>), usize> = BTreeMap::new();
    // From a few moments of the first half, each put back after a few later kills, and after the end.
    for (first, later) in [(1, 2), (1, 4), (1, 8), (2, 4), (3, 5), (3, 8), (4, 6), (5, 8), (6, 7), (7, 8)] {
        let n = if later == 8 { 0 } else { calls * later / 8 };
        let Killed { world, auditor, taken } = killed_at(n);
        let (older, newest) = (&taken[calls * first / 8 - 1], &taken[taken.len() - 1]);
        let journal = world.dir.path().join("test.journal");
        image::put(older, &journal);
        let ran = world.run();
        let said = format!("{first}/8 after {later}/8\n{}{}", ran.out, ran.err);
        assert!(matches!(ran.code, Some(0 | 3 | 6)), "{said}");
        // What it does not know to be its own mute, it leaves alone: the journal that muted the device goes on.
        let wrong: Vec<_> = auditor.breaches().iter().map(ToString::to_string).collect();
        assert_eq!(wrong, [""; 0], "{said}");
        if !said.contains("muted-source") {
            assert_eq!(breaches(&auditor), [""; 0], "{said}");
        }
        image::put(newest, &journal);
        let again = world.run();
        assert!(matches!(again.code, Some(0 | 3)), "{said}\nthen {}{}", again.out, again.err);
        assert_eq!(breaches(&auditor), [""; 0], "{said}\nthen {}{}", again.out, again.err);
        *codes.entry((ran.code, again.code)).or_insert(0) += 1;
    }
    println!(
        "journal: older copies put back whole, exit codes with them and with the newest again: {codes:?}"
    );
}

/// True for what no program can tell from the files: all of them are older, or the lock file that would tell is gone.
fn is_put_back(what: &str) -> bool {
    ["older", "deleted"].iter().any(|word| what.contains(word)) && !what.contains(FORGED)
}

/// Takes away what stands there that is no file.
fn clean(journal: &std::path::Path) {
    for suffix in image::FILES.into_iter().chain([".copy"]) {
        let path = image::beside(journal, suffix);
        let _ = std::fs::remove_dir_all(&path);
        let _ = std::fs::remove_file(&path);
    }
}
