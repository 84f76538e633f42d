//! Back to V2, at any step.

use stackferry::{
    map::path,
    rehearsal::{auditor::Side, store::Table},
};

use crate::world::{
    traffic::lock,
    v2::{KINDS, PLAIN, V2World, WatchedV2},
};

const RENAMED: &str = r#"
[[application]]
source = "fleet-v2"

[transform]
frequency-plan = { default = "EU_863_870_TTN" }
device-id = { rename = "auto" }
"#;

#[test]
fn a_restored_device_is_as_it_was_but_for_its_nonces() {
    for mode in ["keys", "delete"] {
        let world = V2World::some(&KINDS);
        world.config(&format!("{RENAMED}[clear]\nmode = \"{mode}\"\nwhen = \"verified\""));
        let before: Vec<_> = KINDS.iter().map(|id| world.device(id).expect("there")).collect();
        world.run().expect(0);
        world.call("rollback", &["--dry-run"]).expect(0).says("join nonces");
        world.call("rollback", &["--yes"]).expect(0);
        assert_eq!(world.target_keys(Table::Ns), [""; 0]);
        for (id, before) in KINDS.iter().zip(&before) {
            let after = world.device(id).expect("back");
            let keys = |d: &stackferry::map::ttn_v2::V2Device| {
                (d.app_key(), d.dev_addr(), d.nwk_s_key(), d.app_s_key())
            };
            assert_eq!(keys(&after), keys(before), "{id}");
            assert_eq!(
                (after.location(), after.attributes()),
                (before.location(), before.attributes()),
                "{id}"
            );
            assert!(
                after.f_cnt_up() >= before.f_cnt_up() && after.f_cnt_down() >= before.f_cnt_down(),
                "{id}"
            );
        }
        world.call("rollback", &["--yes"]).expect(0).says("nothing to bring back");
        world.run().expect(0);
    }
}

#[test]
fn a_device_that_joined_the_target_talks_to_v2_after_the_rollback() {
    for seed in 1..3 {
        let watched = WatchedV2::new(V2World::some(&["node-000", "node-001"]), seed);
        watched.world.config(&PLAIN.replace("[transform]", "[transform]\nsession = \"drop\""));
        watched.until_done("run");
        lock(&watched.field).join_all();
        watched.stir(50);
        watched.auditor.protect(Side::Target);
        watched.until_done("rollback");
        watched.prove("source");
    }
}

#[test]
fn a_fleet_on_the_air_comes_back_and_goes_again() {
    for seed in 21..23 {
        let mut watched = WatchedV2::new(V2World::some(&KINDS), seed);
        watched.world.config(RENAMED);
        watched.until_done("run");
        watched.stir(100);
        watched.auditor.protect(Side::Target);
        watched.until_done("rollback");
        watched.prove("source");
        watched.audit_anew();
        watched.until_done("run");
        watched.stir(100);
        watched.prove("target");
    }
}

#[test]
fn before_the_clear_a_rollback_only_takes_the_muted_copies_away() {
    let world = V2World::some(&KINDS);
    world.config(&format!("{RENAMED}[clear]\nhold = true"));
    world.run().expect(0);
    let before = world.writes().len();
    world.call("rollback", &["--yes"]).expect(0);
    let since: Vec<_> = world.writes().split_off(before);
    assert!(since.iter().all(|method| !method.starts_with("/handler.")), "V2 was written to: {since:?}");
    assert_eq!(world.target_keys(Table::Ns), [""; 0]);
}

#[test]
fn keys_that_somebody_has_given_it_since_are_not_overwritten() {
    let world = V2World::some(&["node-000"]);
    world.config(PLAIN);
    world.run().expect(0);
    world.edit("node-000", |device| {
        path::set(device, "lorawan_device.app_key", prost_reflect::Value::Bytes(vec![9; 16].into()));
    });
    world.call("rollback", &["--yes"]).expect(3).says("somebody has given it keys");
    let kept = world.device("node-000").expect("there").app_key().expect("kept");
    assert_eq!(*kept, [9; 16]);
}
