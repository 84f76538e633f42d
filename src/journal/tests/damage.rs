//! Whatever happens to the files: an error with a name, or the contents as they were written. Never other contents.

use std::{collections::BTreeMap, fs, mem, os::unix::fs::PermissionsExt as _};

use super::*;

/// Everything that a journal says of its devices.
type Contents = BTreeMap<DeviceKey, (Vec<Event>, Vec<(SealInfo, Vec<u8>)>)>;

fn contents(journal: &Journal) -> Result<Contents, Error> {
    let mut contents = Contents::new();
    journal.for_each_device::<Error>(|device, events| {
        let seals = journal.seals(&device)?;
        let opened = seals.into_iter().map(|s| Ok((s.clone(), journal.unseal(s.id)?.to_vec())));
        let opened = opened.collect::<Result<_, Error>>()?;
        contents.insert(device, (events, opened));
        Ok(())
    })?;
    Ok(contents)
}

/// The files of a journal after two runs, and what they hold. After a crash its log is still there.
fn image(crash: bool) -> (BTreeMap<&'static str, Vec<u8>>, Contents) {
    let place = Place::new();
    let mut dice = Dice(1);
    let mut journal = place.open();
    for round in 0..2 {
        for step in 0..60 {
            let device = device(&format!("device-{}", dice.roll(7)));
            let body = vec![b'a' + step; dice.roll(300)];
            if dice.roll(4) == 0 {
                journal.seal(&device, "source-1", &body.repeat(20)).expect("seals");
            } else {
                journal
                    .append(&device, ["planned", "created", "verified"][dice.roll(3)], &body)
                    .expect("writes");
            }
        }
        if round == 0 {
            drop(journal);
            journal = place.open();
        }
    }
    let expected = contents(&journal).expect("reads");
    if crash {
        mem::forget(journal);
    } else {
        drop(journal);
    }
    let files = ["", "-wal", ".lock", ".key"].into_iter();
    let files = files.filter_map(|suffix| fs::read(place.beside(suffix)).ok().map(|bytes| (suffix, bytes)));
    (files.collect(), expected)
}

fn put(place: &Place, files: &BTreeMap<&str, Vec<u8>>) {
    for (suffix, bytes) in files {
        fs::write(place.beside(suffix), bytes).expect("writes");
    }
    fs::set_permissions(place.beside(".key"), fs::Permissions::from_mode(0o600)).expect("sets");
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> &'static str {
    let at = dice.roll(bytes.len());
    let end = (at + 1 + dice.roll(600)).min(bytes.len());
    match dice.roll(7) {
        0 | 1 => {
            bytes[at] ^= 1 << dice.roll(8);
            "flips a bit"
        }
        2 => {
            for _ in 0..20 {
                let at = dice.roll(bytes.len());
                bytes[at] ^= 1 << dice.roll(8);
            }
            "flips bits"
        }
        3 => {
            bytes.truncate(at);
            "truncates"
        }
        4 => {
            bytes[at..end].fill(0);
            "zeroes"
        }
        5 => {
            bytes[at..end].iter_mut().for_each(|b| *b = dice.roll(256) as u8);
            "overwrites"
        }
        _ => {
            let from = dice.roll(bytes.len() - (end - at));
            bytes.copy_within(at..end, from);
            "copies a piece elsewhere"
        }
    }
}

/// The name of an error kind, or `whole`.
fn outcome(place: &Place, expected: &Contents, what: &str) -> String {
    let name = |e: Error| {
        assert!(!e.hint().is_empty() && e.to_string().starts_with("journal `"), "{e}");
        assert!(
            !matches!(e.kind, ErrorKind::Locked { .. } | ErrorKind::Busy | ErrorKind::Missing),
            "{what}: {e}"
        );
        format!("{:?}", e.kind).split(['(', ' ']).next().unwrap_or_default().to_owned()
    };
    // First as `status` sees it, which has no key and no lock to compare with: it may see less, but nothing else.
    if let Ok(view) = View::open(&place.path) {
        let _ = view.for_each_device::<Error>(|device, events| {
            let (all, _) = expected.get(&device).unwrap_or_else(|| panic!("{what}: invents {device}"));
            assert!(all.starts_with(&events), "{what}: other events of {device}");
            Ok(())
        });
    }
    match place.try_open().and_then(|opened| contents(&opened.journal)) {
        Ok(found) => {
            assert!(found == *expected, "{what}: opened with other contents");
            "whole".into()
        }
        Err(error) => name(error),
    }
}

fn sweep(crash: bool, cases: u64) -> BTreeMap<String, usize> {
    let (files, expected) = image(crash);
    assert_eq!(files.contains_key("-wal"), crash);
    let mut outcomes = BTreeMap::new();
    for case in 0..cases {
        let mut dice = Dice(case);
        let place = Place::new();
        let mut files = files.clone();
        // The log and the journal more often than the small files beside them.
        let targets: &[_] =
            if crash { &["", "", "-wal", "-wal", "-wal", ".lock", ".key"] } else { &["", "", "", ".lock"] };
        let target = targets[dice.roll(targets.len())];
        let bytes = files.get_mut(target).expect("there");
        let how = damage(bytes, &mut dice);
        put(&place, &files);
        *outcomes
            .entry(outcome(&place, &expected, &format!("case {case} {how} in `{target}`")))
            .or_insert(0) += 1;
    }
    outcomes
}

#[test]
fn damage_at_rest_is_named_or_harmless() {
    let outcomes = sweep(false, 300);
    println!("{outcomes:?}");
    assert!(outcomes["Damaged"] > 100 && outcomes["whole"] > 10, "the sweep proves too little: {outcomes:?}");
}

#[test]
fn damage_after_a_crash_is_named_or_harmless() {
    let outcomes = sweep(true, 300);
    println!("{outcomes:?}");
    let proves = |kind: &str, least| outcomes.get(kind).is_some_and(|n| *n > least);
    assert!(proves("Damaged", 10) && proves("Older", 30) && proves("whole", 10), "too little: {outcomes:?}");
}

#[test]
fn a_log_that_was_deleted_after_a_crash_is_missed() {
    let (mut files, _) = image(true);
    files.remove("-wal");
    let place = Place::new();
    put(&place, &files);
    assert!(matches!(place.refused(), ErrorKind::Older { .. }));
}
