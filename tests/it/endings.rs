//! How commands end: exit codes and streams.

use serde_json::Value;

use crate::world::{LOSSES, World};

#[test]
fn json_lines_have_their_version_and_nothing_else_is_on_stdout() {
    let world = World::some(&[0, 1]);
    world.config(LOSSES);
    for (verb, arguments, last) in [
        ("plan", vec!["--output", "json"], "planned"),
        ("run", vec!["--yes", "--output", "json"], "summary"),
        ("status", vec!["--output", "json"], "status"),
        ("verify", vec!["--output", "json"], "verified"),
    ] {
        let ran = world.call(verb, &arguments).expect(0);
        let lines: Vec<Value> = ran
            .out
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{verb}: {e}: {l}")))
            .collect();
        assert!(lines.iter().all(|l| l["v"] == 1), "{verb}");
        assert_eq!(lines.last().map(|l| l["event"].clone()), Some(Value::from(last)), "{verb}");
    }
}

#[test]
fn errors_are_told_on_stderr_and_in_json() {
    let world = World::some(&[1]);
    world.config("");
    let ran = world.call("verify", &["--output", "json"]).expect(6);
    let line: Value = serde_json::from_str(ran.out.trim()).expect("one line");
    assert_eq!((&line["event"], &line["exit_code"]), (&Value::from("error"), &Value::from(6)));
    assert!(ran.err.contains("nothing was moved yet"), "{}", ran.err);
}

#[test]
fn quiet_says_nothing_but_the_summary() {
    let world = World::some(&[0]);
    world.config(LOSSES);
    let ran = world.call("run", &["--yes", "--quiet"]).expect(0);
    assert_eq!(ran.err, "");
    assert!(ran.out.starts_with("summary"), "{}", ran.out);
}

#[test]
fn a_rehearsal_only_reads_the_real_source() {
    let world = World::fleet();
    world.config(&format!("{LOSSES}[clear]\nmode = \"keys\"\n"));
    world.call("rehearse", &[]).expect(0).says("100 devices moved").says("this was a rehearsal");
    assert_eq!(world.source.writes(), [""; 0]);
    assert_eq!(world.target.writes(), [""; 0]);
    assert!(!world.dir.path().join("test.journal").exists());
}
