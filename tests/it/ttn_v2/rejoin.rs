//! A device that joins at V2 while it is moved.

use std::sync::{Arc, Mutex};

use prost_reflect::Value;
use stackferry::{map::path, rehearsal::store::Table};

use crate::world::v2::{PLAIN, V2_APP, V2World, WatchedV2};

/// Joins `id` at V2 by hand after the `n`-th call to the target that makes an NS record.
fn joins_when_copied(world: &V2World, id: &'static str, addr: [u8; 4]) {
    let once = Arc::new(Mutex::new(true));
    let v2 = Arc::clone(&world.v2);
    let device = world.device(id).expect("there").message().clone();
    world.target.tts.on_replied(move |call| {
        if call.rpc() != "NsEndDeviceRegistry/Set" || !std::mem::take(&mut *once.lock().expect("whole")) {
            return;
        }
        let mut joined = device.clone();
        for (field, bytes) in
            [("dev_addr", addr.to_vec()), ("nwk_s_key", vec![7; 16]), ("app_s_key", vec![8; 16])]
        {
            path::set(&mut joined, &format!("lorawan_device.{field}"), Value::Bytes(bytes.into()));
        }
        for counter in ["f_cnt_up", "f_cnt_down"] {
            path::set(&mut joined, &format!("lorawan_device.{counter}"), Value::U32(1));
        }
        v2.take_devices(vec![joined], V2_APP).expect("memory");
    });
}

#[test]
fn a_device_that_joins_between_copy_and_clear_is_copied_anew() {
    for id in ["node-000", "node-001"] {
        let world = V2World::some(&[id]);
        world.config(PLAIN);
        let addr = [0x26, 1, 2, 3];
        joins_when_copied(&world, id, addr);
        world.run().expect(0);
        let ns = world.on_target(Table::Ns, id).expect("moved");
        assert_eq!(path::bytes(&ns, "session.dev_addr"), addr, "{id}: the session that it has now");
        assert_eq!(path::bytes(&ns, "session.keys.f_nwk_s_int_key.key"), [7; 16]);
    }
}

#[test]
fn the_last_reading_of_a_device_with_a_session_stands_right_before_its_clear() {
    let world = V2World::fleet();
    world.config(&PLAIN.replace("[transform]", "[transform]\ndevice-id = { rename = \"auto\" }"));
    world.run();
    let calls = world.v2.calls();
    let clears = calls.iter().enumerate().filter(|(_, c)| c.rpc() == "ApplicationManager/SetDevice");
    let mut looked_at = 0;
    for (at, clear) in clears {
        let id = clear.entity.rsplit('.').next().unwrap_or_default();
        if world.target_keys(Table::Ns).iter().any(|key| key.ends_with(id))
            && world.on_target(Table::Ns, id).is_some_and(|ns| path::has(&ns, "session"))
        {
            let before = &calls[at - 1];
            assert_eq!((before.rpc(), &before.entity), ("ApplicationManager/GetDevice", &clear.entity));
            looked_at += 1;
        }
    }
    assert!(looked_at > 10, "{looked_at}");
}

#[test]
fn devices_that_join_all_the_time_are_moved_and_prove_alive() {
    for seed in 11..13 {
        let watched = WatchedV2::new(V2World::some(&["node-000", "node-001", "node-006", "node-007"]), seed);
        watched.world.config(PLAIN);
        // Every few calls somebody joins.
        let field = Arc::clone(&watched.field);
        watched.world.v2.on_call(move |call| {
            // Not between a reading and the write that follows it.
            if matches!(call.rpc(), "ApplicationManager/SetDevice" | "ApplicationManager/GetDevice") {
                return None;
            }
            let mut field = crate::world::traffic::lock(&field);
            if field.random(3) == 0 {
                let index = field.random(4) as usize;
                let field = &mut *field;
                // Muted on the one side and cleared on the other it is not answered.
                let _ = field.ether.join(&mut field.devices[index]);
            }
            None
        });
        watched.until_done("run");
        crate::world::traffic::lock(&watched.field).join_all();
        watched.prove("target");
    }
}
