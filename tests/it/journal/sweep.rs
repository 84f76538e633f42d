//! 2,000 corruptions of the journals of real runs, each judged through the library: as `status` and as a run open them.

use std::{collections::BTreeMap, fs, path::Path};

use stackferry::journal::{Error, ErrorKind};
use tempfile::TempDir;

use super::{
    CONFIG, Dice,
    image::{self, Contents, Files, Image},
    seed,
    tamper::{FORGED, Loot, tamper},
};

const CASES: usize = 2000;
/// Moments of a run, spread over it.
const MOMENTS: usize = 12;

/// In memory where that is to be had: 4,000 openings sync a lot.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// What came of a corruption.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// An error with this name.
    Refused(String),
    /// The history as it was written.
    Right,
    /// An older one, or another's, whole: the lock file, which would have told, was taken away or exchanged as well.
    PutThere,
    /// Every trace of the journal was taken away: a new one was begun.
    Anew,
}

/// `acme.journal.lock` notes the same last entry as before.
fn note_is_kept(path: &Path, files: &Files) -> bool {
    let line = |bytes: &[u8]| bytes.split(|b| *b == b'\n').next().map(<[u8]>::to_vec);
    let now = fs::read(image::beside(path, ".lock")).ok().and_then(|bytes| line(&bytes));
    now.is_some() && now == files.get(".lock").and_then(|bytes| line(bytes))
}

fn name(error: &Error) -> String {
    assert!(!error.hint().is_empty() && error.to_string().starts_with("journal `"), "{error}");
    format!("{:?}", error.kind).split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

fn judge(path: &Path, loot: &Loot<'_>, what: &str) -> Outcome {
    let kept = note_is_kept(path, &loot.now.files);
    let traceless = ["", "-wal", "-shm", ".lock"].iter().all(|s| !image::beside(path, s).exists());
    let right = |found: &Contents, all: &dyn Fn(&Contents) -> Contents| {
        let (now, foreign) = (all(&loot.now.contents), all(&loot.foreign.contents));
        if *found == now {
            return Some(Outcome::Right);
        }
        if traceless {
            return found.entries.is_empty().then_some(Outcome::Anew);
        }
        let put_there = !kept && (found.is_beginning_of(&now) || found.is_beginning_of(&foreign));
        put_there.then_some(Outcome::PutThere)
    };
    if !what.starts_with(FORGED)
        && let Ok(found) = Contents::of_status(path)
    {
        assert!(right(&found, &Contents::unsealed).is_some(), "`status` shows another history");
    }
    let before = image::take(path);
    match Contents::of_run(path, &loot.now.contents.pins) {
        Ok(found) => right(&found, &Contents::clone).expect("opened with another history"),
        Err(error) => {
            // Nobody else is here, and nothing was ever created.
            assert!(!matches!(error.kind, ErrorKind::Locked { .. } | ErrorKind::Closed), "{error}");
            // The lock was taken, and the index is made anew from the log.
            let after = image::take(path);
            for suffix in ["", "-wal", ".key"] {
                let unchanged = after.get(suffix) == before.get(suffix);
                let begun = suffix == "-wal" && after.get(suffix).is_some_and(Vec::is_empty);
                assert!(unchanged || begun, "a refusal changed `{suffix}`");
            }
            Outcome::Refused(name(&error))
        }
    }
}

/// Moments since the first device was begun, evenly spread; the last one is the end.
fn moments(numbers: &[usize], key: &[u8]) -> Vec<Image> {
    let mut all = image::of_two_runs(numbers, CONFIG, Some(key));
    let begun = |files: &Files| Image::new(files.clone()).contents.entries.len() > 3;
    all.drain(..all.partition_point(|files| !begun(files)));
    let chosen = (0..MOMENTS).map(|i| all[(all.len() - 1) * i / (MOMENTS - 1)].clone());
    chosen.map(Image::new).collect()
}

#[test]
fn corruptions_are_named_or_harmless() {
    let seed = seed();
    let key = format!("{:064x}\n", 0x5eed_u64 << 32 | seed);
    let ours = moments(&[1, 4, 2], key.as_bytes());
    let theirs = moments(&[1, 2, 7], key.as_bytes());
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut kinds: BTreeMap<String, BTreeMap<Outcome, usize>> = BTreeMap::new();
    for case in 0..CASES {
        let mut dice = Dice::new(seed, case);
        // At rest it is one file, which damage meets where no log mends what is damaged.
        let now = if dice.roll(3) == 0 { MOMENTS - 1 } else { dice.roll(MOMENTS) };
        let (older, foreign) = (dice.roll(now.max(1)), dice.roll(theirs.len()));
        let loot = Loot { now: &ours[now], older: &ours[older], foreign: &theirs[foreign] };
        let folder = scratch();
        let path = folder.path().join("test.journal");
        let what = tamper(&path, &loot, &mut dice);
        let kept = scratch();
        image::put(&image::take(&path), &kept.path().join("test.journal"));
        let judged = std::panic::catch_unwind(|| judge(&path, &loot, &what));
        let Ok(outcome) = judged else {
            wrong.push(format!("corruption {case} of seed {seed}, {what}: see {}", kept.keep().display()));
            continue;
        };
        *outcomes.entry(outcome.clone()).or_insert(0) += 1;
        *kinds.entry(what).or_default().entry(outcome).or_insert(0) += 1;
    }
    for (what, outcomes) in &kinds {
        println!("  {what}: {outcomes:?}");
    }
    report(seed, &outcomes, wrong.len());
    assert_eq!(wrong, [""; 0]);
    assert!(kinds.len() > 60, "only {} ways", kinds.len());
}

fn report(seed: u64, outcomes: &BTreeMap<Outcome, usize>, wrong: usize) {
    let count = |outcome| outcomes.get(&outcome).copied().unwrap_or_default();
    let refused: Vec<_> = outcomes
        .iter()
        .filter_map(|(outcome, n)| match outcome {
            Outcome::Refused(kind) => Some((kind, n)),
            _ => None,
        })
        .collect();
    let names: Vec<_> = refused.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    println!(
        "journal: {CASES} corruptions (seed {seed}): {} refused by name ({}), {} read right, {} whole as they were put \
         there without or with another lock file, {} begun anew with nothing left, {wrong} wrong",
        refused.iter().map(|(_, n)| *n).sum::<usize>(),
        names.join(", "),
        count(Outcome::Right),
        count(Outcome::PutThere),
        count(Outcome::Anew)
    );
    // A sweep that only ever meets one answer proves nothing.
    for kind in ["Damaged", "Older", "WrongKey", "KeyMissing", "Gone", "NotAJournal", "Format"] {
        assert!(count(Outcome::Refused(kind.into())) > 0, "never {kind}");
    }
    assert!(count(Outcome::Right) > 100);
}
