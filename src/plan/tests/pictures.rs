//! Pictures: carried by their bytes, or a finding.

use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::{
    model::{device::Records, ids::DeviceId},
    plan::{
        self, Input, Verdict,
        back::{self, Sides},
        compare::{self, Standing},
        facts::SessionMode,
        picture,
        transform::Write,
    },
};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n pixels";

/// A device with a picture, fetched or not.
fn pictured(fetched: bool) -> Found {
    let mut found = generated(1);
    let record = is(&mut found);
    picture::refer(record, "/assets/blob/end_device_pictures/app.dev.01/original.png");
    if fetched {
        picture::embed(record, PNG).expect("an image");
    }
    found
}

fn written(found: &Found, facts: &TargetFacts) -> (Write, Vec<Finding>) {
    let done = transform::device(found, facts, &wishes(SessionMode::Keep));
    (done.copy.is.expect("an IS record"), done.findings)
}

fn plan_of(found: Found) -> plan::DevicePlan {
    let input = Input { id: DeviceId::unchecked("dev"), found, begun: None, holder: None };
    plan::devices(&[input], &HashMap::new(), &facts(), &wishes(SessionMode::Keep)).remove(0)
}

#[test]
fn a_picture_that_was_fetched_is_written_by_its_bytes_alone() {
    let (write, findings) = written(&pictured(true), &facts());
    assert!(!has(&findings, Kind::Picture));
    assert!(write.paths.iter().any(|p| p == "picture"), "{:?}", write.paths);
    assert_eq!(path::bytes(&write.message, "picture.embedded.data"), PNG);
    assert_eq!(path::string(&write.message, "picture.embedded.mime_type"), "image/png");
    assert_eq!(picture::address(&write.message), None, "the source's own addresses are refused");
}

#[test]
fn a_picture_that_was_not_fetched_is_a_finding_and_not_written() {
    let mut found = pictured(false);
    found.unfetched = Some("files.example:443 answers 404 Not Found".to_owned());
    let (write, findings) = written(&found, &facts());
    let finding = findings.iter().find(|f| f.kind == Kind::Picture).expect("told");
    assert!(finding.blocks() && finding.text.contains("files.example:443 answers 404"), "{finding}");
    assert!(!path::has(&write.message, "picture") && !write.paths.iter().any(|p| p == "picture"));
    let refused = TargetFacts { no_pictures: true, ..facts() };
    let (write, findings) = written(&pictured(true), &refused);
    assert!(has(&findings, Kind::Picture), "the target takes none");
    assert!(!path::has(&write.message, "picture"));
}

#[test]
fn a_plan_counts_the_fetch() {
    let (with, without) = (plan_of(pictured(true)), plan_of(generated(1)));
    assert_eq!((with.verdict, with.calls), (Verdict::Move, without.calls + 1));
    assert_eq!(plan_of(pictured(false)).verdict, Verdict::Stop);
}

#[test]
fn the_addresses_of_the_target_are_no_edit_and_a_missing_picture_is() {
    let (write, _) = written(&pictured(true), &facts());
    let mut read = Record(path::project(&write.message, &write.paths));
    path::clear(&mut read.0, "picture");
    let standing = |read: &Record| compare::standing(Component::Is, &write, read, true);
    assert_eq!(standing(&read), Standing::Different(vec!["picture".to_owned()]));
    picture::refer(&mut read.0, "/assets/blob/end_device_pictures/other.dev.77/original.png");
    assert_eq!(standing(&read), Standing::Equal);
    assert!(compare::settings_that_differ(Component::Is, &write, &read.0).is_empty());
}

#[test]
fn another_upload_at_the_source_is_an_edit() {
    let sealed = pictured(true);
    let now = pictured(false);
    let changed = |now: &Found| {
        compare::changed_while_muted(Component::Is, sealed.records.is.as_ref(), now.records.is.as_ref())
    };
    assert!(changed(&now).is_empty(), "a reading has no bytes: {:?}", changed(&now));
    let mut other = pictured(false);
    picture::refer(is(&mut other), "/assets/blob/end_device_pictures/app.dev.02/original.png");
    assert!(!changed(&other).is_empty());
}

#[test]
fn a_record_that_was_deleted_gets_its_picture_back_from_the_seal() {
    let sealed = pictured(true);
    let written = transform(&sealed, SessionMode::Keep).copy;
    let mut there = Records::default();
    for component in Component::ALL {
        let record = written.get(component).map(|w| Record(path::project(&w.message, &w.paths)));
        *there.slot(component) = record;
    }
    picture::refer(&mut there.is.as_mut().expect("made").0, "/assets/blob/x.y.77/original.png");
    let cleared: BTreeSet<_> = sealed.records.present().map(|(c, _)| c).collect();
    let now = Found { records: Records::default(), ..sealed.clone() };
    let sides = Sides {
        written: &written,
        sealed: &sealed,
        now: &now,
        there: &there,
        cleared: &cleared,
        gone: &cleared,
    };
    let source = TargetFacts { hosts: sealed.hosts.clone(), ..facts() };
    let decide = |source: &TargetFacts| {
        back::decide(&sides, source, &AppId::unchecked("source-app"), &DeviceId::unchecked("dev"))
            .expect("it can return")
    };
    let back = decide(&source);
    let is = back.copy.is.expect("restored");
    assert_eq!(path::bytes(&is.message, "picture.embedded.data"), PNG);
    assert_eq!(picture::address(&is.message), None);
    assert!(is.paths.iter().any(|p| p == "picture"));
    assert!(!has(&back.findings, Kind::Picture), "nothing is lost");
    // A source that takes no pictures any more gets the device back all the same.
    let back = decide(&TargetFacts { no_pictures: true, ..source });
    assert!(has(&back.findings, Kind::Picture));
    assert!(!path::has(&back.copy.is.expect("restored").message, "picture"));
}
