//! Back: what is ours and untouched goes.

use stackferry::{map::path, rehearsal::store::Table};

use super::scene::{FULL, MANAGED, config, expected, gateway, keys, same, stored, text, world};

fn is_deleted(world: &crate::world::World, id: &str) -> bool {
    path::has(&gateway(&world.target, id).expect("its ID stays taken"), "deleted_at")
}

/// The API keys of the first.
fn key_ids(world: &crate::world::World) -> Vec<String> {
    let store = world.target.tts.store();
    let keys = store.iter(Table::ApiKeys).filter(|(key, _)| key.starts_with(&format!("gtw:{FULL}/")));
    keys.map(|(_, key)| path::string(key, "id")).collect()
}

#[test]
fn a_rollback_deletes_them_and_the_next_run_takes_them_again() {
    let world = world();
    config(
        &world,
        "ids = [\"roof-1\", \"roof-2\"]\napi-keys = [\"lns\"]\n[people]\nusers = { admin = \"admin\" }",
        "",
    );
    world.run().expect(0);
    world.call("rollback", &["--dry-run"]).expect(0).says(
        "gateways to be deleted on the target, with their API keys: 2 (roof-1, roof-2); their IDs stay taken",
    );
    assert!(!is_deleted(&world, FULL));
    world.call("rollback", &["--yes"]).expect(0).says("gateways: 2 taken back");
    for id in [FULL, MANAGED] {
        assert!(is_deleted(&world, id));
        assert_eq!(keys(&world.target, id), []);
    }
    world.call("rollback", &["--yes"]).expect(0);
    // The ID is held by the deleted gateway, which had lost its EUI: it is restored and written anew.
    world.run().expect(0).says("gateways: 2 registered");
    same(&stored(&world, FULL), &expected(&world, FULL, FULL));
    assert_eq!(keys(&world.target, FULL).len(), 1);
    let writes = world.target.writes().len();
    world.run().expect(0);
    assert_eq!(world.target.writes().len(), writes, "S6");
    // Somebody deletes it on the target: nobody can delete its key then, which comes back with it and must not be of use.
    let old: Vec<_> = key_ids(&world);
    let mut gone = gateway(&world.target, FULL).expect("there");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let mut at = stackferry::proto::message("google.protobuf.Timestamp");
    path::set(&mut at, "seconds", prost_reflect::Value::I64(i64::try_from(now).expect("before the end")));
    path::set(&mut gone, "deleted_at", prost_reflect::Value::Message(at));
    path::clear(&mut gone, "ids.eui");
    world.target.tts.store().put(Table::Gateways, FULL, gone).expect("memory");
    world.call("rollback", &["--yes"]).expect(0);
    assert_eq!(key_ids(&world), old);
    world.run().expect(0);
    let new = key_ids(&world);
    assert!(new.len() == 1 && new != old, "{new:?}");
    std::fs::remove_file(world.dir.path().join("gateway-keys.csv")).expect("there");
}

#[test]
fn one_that_was_edited_or_has_connected_stays() {
    let world = world();
    config(&world, "ids = [\"roof-1\", \"roof-2\", \"gw-lab-0\"]", "");
    world.run().expect(0);
    let mut edited = gateway(&world.target, FULL).expect("there");
    path::set(&mut edited, "name", text("Somebody's now"));
    world.target.tts.store().put(Table::Gateways, FULL, edited).expect("memory");
    world.target.tts.connect_gateway(MANAGED, true).expect("memory");
    let ran = world.call("rollback", &["--yes"]).expect(3);
    ran.says("gateway roof-1: it was edited on the target")
        .says("gateway roof-2: it is connected to the target")
        .says("gateways: 1 taken back");
    assert!(!is_deleted(&world, FULL) && !is_deleted(&world, MANAGED) && is_deleted(&world, "gw-lab-0"));
    // It has gone; the server keeps for a while that it was there.
    world.target.tts.connect_gateway(MANAGED, false).expect("memory");
    world.call("rollback", &["--yes"]).expect(3).says("gateways: 1 taken back");
    assert!(is_deleted(&world, MANAGED));
}
