//! Secrets in the wrong place: what is wrong is said, and the secret is not shown.

use std::fs;

use super::{JSON, loud};
use crate::world::{LOSSES, World, canaries, fixture, search::Secret};

#[test]
fn a_key_in_place_of_a_command_is_not_repeated() {
    refuses_literal("api-key = { env = \"SOURCE_KEY\" }", |key| {
        format!("api-key = {{ command = [\"{key}\"] }}")
    });
}

/// Puts a literal key into the configuration, which is refused and not shown.
fn refuses_literal(from: &str, to: impl Fn(&str) -> String) {
    let key = format!("NNSXS.{:A<39}.{:Q<52}", "LITERALKEY", "LITERALSECRET");
    let world = World::empty();
    world.canaries().add(canaries::api_key("literal", &key));
    let file = world.config("");
    let text = fs::read_to_string(&file).expect("written");
    assert!(text.contains(from), "{from}");
    fs::write(&file, text.replacen(from, &to(&key), 1)).expect("a file");
    for (verb, form) in [("plan", &[][..]), ("run", &["--yes", "-vv"]), ("plan", JSON), ("status", &[])] {
        let ran = loud(&world, verb, form);
        let place = to("KEY");
        assert!(verb == "status" || ran.code != Some(0), "{place}: is taken");
    }
}

#[test]
fn a_key_in_the_configuration_is_not_repeated() {
    let api_key = "api-key = { env = \"SOURCE_KEY\" }";
    refuses_literal(api_key, |key| format!("api-key = \"{key}\""));
    refuses_literal(api_key, |key| format!("api-key = '{key}'"));
    refuses_literal(api_key, |key| format!("api-key = \"{key}"));
    refuses_literal(api_key, |key| format!("api-key = {key}"));
    refuses_literal(api_key, |key| format!("api_key = \"{key}\""));
    refuses_literal(api_key, |key| format!("token = \"{key}\""));
    refuses_literal(api_key, |key| format!("api-key = {{ literal = \"{key}\" }}"));
    refuses_literal(api_key, |key| format!("api-key = {{ env = \"{key}\" }}"));
    refuses_literal(api_key, |key| format!("api-key = {{ file = \"{key}\" }}"));
    refuses_literal(api_key, |key| format!("api-key = {{ command = [\"false\", \"{key}\"] }}"));
    refuses_literal(api_key, |key| format!("api-key = [\"{key}\"]"));
    refuses_literal(api_key, |key| format!("# was {key}\napi-key = 1"));
    refuses_literal("path = \"test", |key| format!("seal-key = \"{key}\"\npath = \"test"));
    refuses_literal("source = \"fleet-lab\"", |key| format!("source = \"{key}\""));
    refuses_literal("address = \"", |key| format!("address = \"{key}@"));
    refuses_literal("owner = {", |key| format!("owner = {{ api-key = \"{key}\", "));
}

/// A file of devices with a mistake: what is wrong is said, and what stands there is not.
#[test]
fn a_broken_device_file_does_not_show_its_keys() {
    let fleet = fs::read_to_string(fixture("tts-fleet-100.jsonl")).expect("the fixture");
    let line = fleet.lines().nth(1).expect("a device");
    let key = "A8A8FC5456A9C539D1AD973669948FA3";
    let quoted = format!("\"{key}\"");
    assert!(line.contains(&quoted));
    for (from, to) in [
        (quoted.as_str(), format!("\"{key}Z\"")),
        (&quoted, format!("\"{}\"", &key[..31])),
        (&quoted, key.to_owned()),
        (&quoted, format!("{{\"{key}\": 1}}")),
        (&quoted, format!("[{quoted}]")),
        (&quoted, format!("\"{key}")),
        ("\"last_join_nonce\": 4", format!("\"last_join_nonce\": {quoted}")),
        ("\"supports_join\": true", format!("\"supports_join\": {quoted}")),
        ("\"MAC_V1_0_3\"", quoted.clone()),
        ("\"2024-03-05T06:07:08Z\"", quoted.clone()),
    ] {
        let world = World::empty();
        // Some of the mistakes cut the key.
        world.canaries().add(vec![Secret::new("the key", &key[1..30])]);
        let file = world.config(LOSSES);
        assert!(line.contains(from), "{from}");
        fs::write(world.dir.path().join("broken.jsonl"), line.replacen(from, &to, 1)).expect("a file");
        let text = fs::read_to_string(&file).expect("written");
        let (_, rest) = text.split_once("[target.tts]").expect("a target");
        let source = "[source.rehearsal]\ndevices = \"broken.jsonl\"\n[target.tts]";
        fs::write(&file, format!("{source}{rest}")).expect("a file");
        for form in [&["-vv"], JSON] {
            let ran = loud(&world, "plan", form).says("the embedded source");
            assert_ne!(ran.code, Some(0));
        }
    }
}
