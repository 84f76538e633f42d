//! Which devices, and the variables of the old tool.

use std::{fs, io::Write as _, process::Stdio};

use stackferry::rehearsal::store::Table;

use crate::world::{
    Ran,
    v2::{FULL, PLAIN, V2World},
};

fn with_devices(devices: &str) -> String {
    PLAIN
        .replace("source = \"fleet-v2\"", &format!("source = \"fleet-v2\"\ndevices = {devices}"))
        .replace("[transform]", "[transform]\ndevice-id = { rename = \"auto\" }")
}

#[test]
fn devices_are_chosen_by_id_file_shape_or_standard_input() {
    let all = ["node-000", "node-001", "abp-003", "sensor_temp_002"];
    for (devices, wanted) in [
        (r#"{ ids = ["sensor_temp_002"] }"#, vec!["sensor-temp-002"]),
        (r#"{ file = "ids.txt" }"#, vec!["abp-003", "sensor-temp-002"]),
        (r#"{ glob = "node-*" }"#, vec!["node-000", "node-001"]),
        (r#"{ file = "-" }"#, vec!["node-001"]),
    ] {
        let world = V2World::some(&all);
        fs::write(world.dir.path().join("ids.txt"), "abp-003\nsensor_temp_002 # under the roof\n")
            .expect("a file");
        world.config(&with_devices(devices));
        let mut command = world.command("run");
        let mut child = command
            .arg("--yes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        // Only one of them reads it.
        let _ = stdin.write_all(b"node-001\n");
        drop(stdin);
        Ran::of(child.wait_with_output().expect("it ends")).expect(0);
        let names: Vec<_> =
            world.target_keys(Table::Ns).iter().map(|key| key.replace("fleet-v2.", "")).collect();
        assert_eq!(names, wanted, "{devices}");
    }
}

#[test]
fn the_variables_of_the_old_tool_are_enough() {
    let world = V2World::some(&["abp-003"]);
    let config = world.config("");
    let text = fs::read_to_string(&config).expect("ours");
    let discovery = format!("localhost:{}", world.served().discovery.port());
    let without: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("access-key") && !line.starts_with("discovery-server"))
        .collect();
    fs::write(&config, without.join("\n")).expect("ours");
    let ran = Ran::of(world.command("run").arg("--yes").output().expect("it starts")).expect(2);
    assert!(ran.err.contains("application"), "{}", ran.err);
    let ran = world
        .command("run")
        .arg("--yes")
        .env("TTNV2_APP_ID", "fleet-v2")
        .env("TTNV2_APP_ACCESS_KEY", FULL)
        .env("FREQUENCY_PLAN_ID", "EU_863_870_TTN")
        .env("TTNV2_DISCOVERY_SERVER_ADDRESS", discovery)
        .output();
    Ran::of(ran.expect("it starts")).expect(0);
    assert_eq!(world.target_keys(Table::Ns).len(), 1);
}

#[test]
fn a_frequency_plan_is_asked_for_and_checked_against_the_target() {
    let world = V2World::some(&["abp-003"]);
    world.config("[[application]]\nsource = \"fleet-v2\"");
    world.run().expect(2).says("frequency-plan = { default");
    world.config(&PLAIN.replace("EU_863_870_TTN", "MOON_1"));
    let ran = world.call("plan", &[]);
    assert!(ran.out.contains("frequency-plan") && ran.out.contains("MOON_1"), "{}", ran.out);
}

#[test]
fn an_access_key_is_asked_for_per_application() {
    let world = V2World::some(&["abp-003"]);
    let config = world.config(PLAIN);
    let text = fs::read_to_string(&config).expect("ours");
    let key = "access-key = { env = \"V2_KEY\" }\n";
    fs::write(&config, text.replacen(key, "", 1)).expect("ours");
    world.run().expect(2).says("has no access key");
    let own =
        text.replacen(key, "", 1).replace("source = \"fleet-v2\"", &format!("source = \"fleet-v2\"\n{key}"));
    fs::write(&config, own).expect("ours");
    world.run().expect(0);
}
