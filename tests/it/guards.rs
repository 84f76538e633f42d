//! What keeps a person from doing what was not meant.

use std::{fs, net::SocketAddr, sync::Arc};

use prost_reflect::Value;
use stackferry::{
    map::path,
    rehearsal::{
        serve,
        store::{Table, device_key},
    },
};

use crate::world::{APP, World, dev, is_muted};

const DEVICES: [usize; 3] = [1, 4, 2];
const KEYS: &str = "[transform]\nsession = \"keep\"\n[clear]\nmode = \"keys\"\n";

#[track_caller]
fn nothing_was_written(world: &World) {
    assert_eq!(world.source.writes(), [""; 0]);
    assert_eq!(world.target.writes(), [""; 0]);
}

/// The application and one device, as a person might have made them on the target.
fn somebody_was_here(world: &World, as_id: &str, change: impl FnOnce(&mut prost_reflect::DynamicMessage)) {
    let mut app = world.source.tts.store().get(Table::Applications, APP).cloned().expect("there");
    app.clear_field_by_name("created_at");
    let mut device = world.source.record(Table::Is, APP, &dev(1)).expect("there");
    path::set(&mut device, "ids.device_id", Value::String(as_id.to_owned()));
    change(&mut device);
    let mut store = world.target.tts.store();
    store.put(Table::Applications, APP, app).expect("memory");
    store.put(Table::Is, &device_key(APP, as_id), device).expect("memory");
}

#[test]
fn more_devices_than_may_be_cleared_stop_the_whole_run() {
    let world = World::some(&DEVICES);
    world.config(&format!("{KEYS}max-devices = 2\n"));
    world.run().expect(2).says("3 devices would be cleared").says("clear.max-devices");
    nothing_was_written(&world);
    // What is not cleared does not count.
    world.config(&format!("{KEYS}max-devices = 2\nhold = true\n"));
    world.run().expect(0).says("on hold");
}

#[test]
fn a_hold_ends_before_the_first_clear_and_can_be_lifted() {
    let world = World::some(&DEVICES);
    world.config(&format!("{KEYS}hold = true\n"));
    for _ in 0..2 {
        world.run().expect(0).says("the clear is on hold");
        for number in DEVICES {
            let ns = world.source.record(Table::Ns, APP, &dev(number)).expect("not cleared");
            assert!(is_muted(&ns), "{number} is live on both sides");
            assert!(world.target.record(Table::Ns, APP, &dev(number)).is_some_and(|ns| !is_muted(&ns)));
        }
    }
    assert_eq!(world.source.count(Table::Js, APP), 2);
    world.config(KEYS);
    world.run().expect(0).says("3 devices moved");
    assert_eq!((world.source.count(Table::Js, APP), world.source.count(Table::Ns, APP)), (0, 0));
}

#[test]
fn devices_of_others_on_the_target_are_named_and_left_alone() {
    let world = World::some(&DEVICES);
    world.config(KEYS);
    somebody_was_here(&world, "pump-7", |device| {
        path::set(device, "ids.dev_eui", Value::Bytes(vec![7; 8].into()));
    });
    let theirs = world.target.record(Table::Is, APP, "pump-7");
    world.call("plan", &[]).expect(0).says("others-on-target").says("pump-7");
    world.run().expect(0).says("3 devices moved");
    assert_eq!(world.target.record(Table::Is, APP, "pump-7"), theirs);
}

#[test]
fn another_device_under_the_same_id_is_not_touched() {
    let world = World::some(&DEVICES);
    world.config(KEYS);
    somebody_was_here(&world, &dev(1), |device| {
        path::set(device, "ids.dev_eui", Value::Bytes(vec![7; 8].into()));
    });
    let theirs = world.target.record(Table::Is, APP, &dev(1));
    world.call("plan", &[]).expect(3).says("id-taken").says(&dev(1));
    world.run().expect(3).says("2 devices moved").says("1 device not moved");
    assert_eq!(world.target.record(Table::Is, APP, &dev(1)), theirs);
    let ns = world.source.record(Table::Ns, APP, &dev(1)).expect("kept");
    assert!(
        !is_muted(&ns) && world.source.record(Table::Js, APP, &dev(1)).is_some(),
        "it stays at the source"
    );
}

#[test]
fn the_same_euis_under_another_id_are_refused() {
    let world = World::some(&DEVICES);
    world.config(KEYS);
    somebody_was_here(&world, "pump-7", |_| {});
    world.run().expect(3).says("2 devices moved").says("euis-taken").says("pump-7");
    assert!(world.source.record(Table::Js, APP, &dev(1)).is_some(), "it stays at the source");
}

#[test]
fn a_target_that_is_the_source_is_found_by_whatever_name() {
    let world = World::some(&DEVICES);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let again =
        world.runtime().block_on(serve(Arc::clone(&world.source.tts), listen, None)).expect("loopback");
    let file = world.config(&KEYS.replace("keys", "delete"));
    let text = fs::read_to_string(&file).expect("written");
    let name = format!("localhost:{}", again.addr.port());
    let text = text.replace(&world.target.addr().to_string(), &name).replace("TARGET_KEY", "SOURCE_KEY");
    fs::write(&file, text).expect("a file");
    world.call("plan", &[]).expect(3).says("same-application");
    world.run().expect(3).says("same-application").says("3 devices not moved");
    assert_eq!(world.source.writes(), [""; 0]);
}

fn plan_to(world: &World, name: &str) -> String {
    let file = world.dir.path().join(name).to_str().expect("UTF-8").to_owned();
    world.call("plan", &["--out", &file]).expect(0);
    file
}

#[test]
fn a_plan_that_still_holds_is_carried_out() {
    let world = World::some(&DEVICES);
    world.config(KEYS);
    let plan = plan_to(&world, "plan.json");
    // Traffic is no reason to refuse.
    world.source.edit(Table::Ns, APP, &dev(1), |ns| {
        path::set(ns, "session.last_f_cnt_up", Value::U32(5000));
    });
    world.call("run", &["--yes", "--plan", &plan]).expect(0).says("3 devices moved");
    world.call("run", &["--yes", "--plan", &plan]).expect(0).says("3 devices done before");
}

#[test]
fn a_stale_plan_is_refused_with_what_differs() {
    let world = World::some(&DEVICES);
    world.config(KEYS);
    let plan = plan_to(&world, "plan.json");
    let stale = |what: &str| {
        world.call("run", &["--yes", "--plan", &plan]).expect(2).says("not what was planned").says(what);
        nothing_was_written(&world);
    };
    let js = world.source.record(Table::Js, APP, &dev(4)).expect("there");
    world.source.remove(Table::Js, APP, &dev(4));
    stale("device dev-00004: components");
    world.source.tts.store().put(Table::Js, &device_key(APP, &dev(4)), js).expect("memory");
    world.config(&KEYS.replace("keys", "delete"));
    stale("clear.mode: `keys` was planned, now it is `delete`");
    world.config(&format!("{KEYS}hold = true\n"));
    stale("clear.hold");
    world.config(KEYS);
    world.call("run", &["--yes", "--plan", &plan]).expect(0).says("3 devices moved");
}

#[test]
fn a_plan_holds_no_secret_and_an_edited_one_is_refused() {
    let world = World::some(&DEVICES);
    world.config(KEYS);
    let plan = plan_to(&world, "plan.json");
    let text = fs::read_to_string(&plan).expect("written");
    for (table, at) in [(Table::Js, "root_keys.app_key.key"), (Table::Ns, "session.keys.f_nwk_s_int_key.key")]
    {
        let record = world.source.record(table, APP, &dev(1)).expect("there");
        let key = hex::encode(path::bytes(&record, at));
        assert!(key.len() == 32 && !text.to_lowercase().contains(&key), "{at}");
    }
    assert!(!text.contains(&world.source.tts.settings().api_key));
    fs::write(&plan, text.replace("\"clear.mode\": \"keys\"", "\"clear.mode\": \"delete\"")).expect("a file");
    world.call("run", &["--yes", "--plan", &plan]).expect(2).says("it was edited");
    nothing_was_written(&world);
}
