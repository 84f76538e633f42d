//! A run that is killed at any moment: whatever was acknowledged is there afterwards, in order.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::Stdio,
    thread,
    time::Duration,
};

use super::*;

const TASKS: usize = 6;

/// Appends from several tasks without end, and says each time what was acknowledged: `ack <device> <n> <seq>`.
#[test]
#[ignore = "started by another test"]
fn child_that_appends() {
    let Some(path) = path_from_parent() else { return };
    let journal = Journal::open(&path, &SealKeyRef::Beside, &Pins::default(), &Who::current(), &[])
        .expect("opens")
        .journal;
    let start = |name: &str| {
        let device = device(name);
        journal.events(&device).expect("reads").len() + journal.seals(&device).expect("reads").len()
    };
    let starts: Vec<_> = (0..TASKS).map(|task| start(&format!("device-{task}"))).collect();
    let handle = journal.share().expect("a thread");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    println!();
    runtime.block_on(async {
        let tasks = starts.into_iter().enumerate().map(|(task, start)| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let name = format!("device-{task}");
                for n in start.. {
                    let body = n.to_string();
                    let seq = if n % 5 == 4 {
                        handle.seal(&device(&name), "source-1", body.as_bytes()).await
                    } else {
                        handle.append(&device(&name), "step", body).await
                    };
                    println!("ack {name} {n} {}", seq.expect("writes"));
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("never ends");
        }
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let place = Place::new();
    let mut acknowledged: BTreeMap<(String, usize), u64> = BTreeMap::new();
    let mut dice = Dice(5);
    for round in 0..15 {
        let mut child = child("crash::child_that_appends", &place.path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Some are killed while they open the journal, even while they create it; others after some work.
        let patience = if round % 3 == 0 { 0 } else { 1 + dice.roll(400) };
        if patience == 0 {
            thread::sleep(Duration::from_millis(dice.roll(40) as u64));
        }
        let mut said = Vec::new();
        while said.len() < patience {
            let line = lines.next().expect("runs until it is killed").expect("reads");
            said.extend(line.starts_with("ack ").then_some(line));
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        said.extend(lines.map_while(Result::ok).filter(|line| line.starts_with("ack ")));
        for line in &said {
            let words: Vec<_> = line.split(' ').collect();
            let [_, name, n, seq] = words[..] else { continue };
            acknowledged
                .insert((name.to_owned(), n.parse().expect("a number")), seq.parse().expect("a number"));
        }
        check(&place, &acknowledged);
    }
    assert!(acknowledged.len() > 500, "only {} were acknowledged", acknowledged.len());
}

#[test]
fn a_run_that_is_killed_while_it_makes_its_journal_leaves_one_or_none() {
    let mut left = [0; 2];
    let mut delay = Duration::ZERO;
    // Later and later, until it has come far enough a few times.
    while left[1] < 10 {
        let place = Place::new();
        let mut child = child("crash::child_that_appends", &place.path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        thread::sleep(delay);
        delay += delay / 20 + Duration::from_micros(400);
        assert!(delay < Duration::from_secs(10), "it never makes a journal");
        child.kill().expect("kills");
        child.wait().expect("ends");
        let there = place.path.exists();
        let opened = place.try_open().expect("whatever is left, the same command goes on");
        assert_eq!(opened.resumed, there);
        left[usize::from(there)] += 1;
    }
    assert!(left[0] > 0, "never killed early enough");
}

/// Each device has its steps from 0 without gaps, and at least those that were acknowledged.
fn check(place: &Place, acknowledged: &BTreeMap<(String, usize), u64>) {
    let journal = place.open();
    let mut missing = acknowledged.clone();
    for device in journal.devices().expect("reads") {
        let events = journal.events(&device).expect("reads").into_iter().map(|e| (e.seq, e.body));
        let seals = journal.seals(&device).expect("reads");
        let seals = seals.into_iter().map(|s| (s.id, journal.unseal(s.id).expect("opens").to_vec()));
        let mut all: Vec<_> = events.chain(seals).collect();
        all.sort();
        for (n, (seq, body)) in all.into_iter().enumerate() {
            assert_eq!(body, n.to_string().as_bytes(), "{device}");
            if let Some(said) = missing.remove(&(device.device.to_string(), n)) {
                assert_eq!(said, seq, "{device} {n}");
            }
        }
    }
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
}
