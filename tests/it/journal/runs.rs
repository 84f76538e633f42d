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

use prost_reflect::DynamicMessage;
use stackferry::rehearsal::{
    Fault,
    auditor::{Auditor, Side},
    store::Table,
};

use super::{
    CONFIG, Dice,
    image::{self, Files, Image},
    seed,
    tamper::{FORGED, Loot, tamper},
};
use crate::world::{APP, Ran, World, traffic::terms};

const CASES: usize = 40;
const DEVICES: [usize; 3] = [1, 4, 2];

/// All records of both sides without the times of their last change.
fn stored(world: &World) -> Vec<(Table, String, DynamicMessage)> {
    let mut all = Vec::new();
    for (side, name) in [(&world.source, "source"), (&world.target, "target")] {
        let store = side.tts.store();
        for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
            for (key, message) in store.iter(table).filter(|(k, _)| k.starts_with(APP)) {
                let mut message = message.clone();
                ["created_at", "updated_at"].iter().for_each(|time| message.clear_field_by_name(time));
                all.push((table, format!("{name} {key}"), message));
            }
        }
    }
    all
}

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
    let auditor = Auditor::new(terms());
    auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
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

/// A run that cannot eat the machine's memory.
fn run(world: &World) -> Ran {
    let inner = world.command("run");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh"]).arg(inner.get_program());
    limited.args(inner.get_args()).arg("--yes");
    limited.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ran::of(limited.output().expect("it starts"))
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
        let before = world.source.writes().len() + world.target.writes().len();
        let ran = run(&world);
        let sent = world.source.writes().len() + world.target.writes().len() - before;
        let said = format!("{what}\n{}{}", ran.out, ran.err);
        let named = ran.err.contains("error: journal `") && ran.err.contains("help: ");
        let mut outcome = match ran.code {
            Some(6) => {
                assert!(named && sent == 0, "{sent} write calls without a journal: {said}");
                ran.err.split("journal` ").nth(1).and_then(|e| e.split(['\n', ':']).next()).unwrap_or("?").to_owned()
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
        let breaches: Vec<_> = auditor.finish().iter().map(ToString::to_string).collect();
        assert_eq!(breaches, [""; 0], "{said}");
        if !outcome.contains("older") {
            assert_eq!(stored(&world), expected, "{said}");
        }
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    println!("journal: {CASES} corruptions under the binary (seed {seed}): {outcomes:?}, 0 wrong");
    assert!(outcomes.len() > 4, "{outcomes:?}");
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
