//! S4: FCntUp is the larger of both sides, FCntDown the source's with a margin, and both are set before the target is live.

use std::sync::{Arc, Mutex};

use prost_reflect::Value;
use stackferry::{
    map::{path, ttn_v2::last_n_f_cnt_down},
    plan::handover::MARGIN,
    rehearsal::store::Table,
};

use crate::world::{
    is_muted,
    v2::{PLAIN, V2_APP, V2World},
};

#[test]
fn a_kept_session_goes_on_with_the_larger_counters() {
    for id in ["node-001", "abp-003"] {
        let world = V2World::some(&[id]);
        world.config(PLAIN);
        let before = world.device(id).expect("there");
        world.run().expect(0);
        let ns = world.on_target(Table::Ns, id).expect("moved");
        assert_eq!(path::number(&ns, "session.last_f_cnt_up"), u64::from(before.f_cnt_up()));
        let down = u64::from(last_n_f_cnt_down(before.f_cnt_down()) + MARGIN);
        assert_eq!(path::number(&ns, "session.last_n_f_cnt_down"), down);
        let as_ = world.on_target(Table::As, id).expect("moved");
        assert_eq!(path::number(&as_, "session.last_a_f_cnt_down"), down);
    }
}

#[test]
fn what_either_side_has_counted_meanwhile_counts() {
    for (source, target, wanted) in [(5, 0, 5), (0, 9, 9), (4, 4, 4)] {
        let world = V2World::some(&["abp-003"]);
        world.config(PLAIN);
        let first = world.device("abp-003").expect("there").f_cnt_up();
        // Uplinks after the copy was made: some through gateways of V2, some through the target's.
        let once = Arc::new(Mutex::new(true));
        let (v2, tts) = (Arc::clone(&world.v2), Arc::clone(&world.target.tts));
        let device = world.device("abp-003").expect("there");
        world.target.tts.on_replied(move |call| {
            if call.rpc() != "NsEndDeviceRegistry/Set" || !std::mem::take(&mut *once.lock().expect("whole")) {
                return;
            }
            let mut message = device.message().clone();
            path::set(&mut message, "lorawan_device.f_cnt_up", Value::U32(first + source));
            v2.take_devices(vec![message], V2_APP).expect("memory");
            let mut store = tts.store();
            let key = format!("{V2_APP}.abp-003");
            let mut ns = store.get(Table::Ns, &key).cloned().expect("it was just made");
            path::set(&mut ns, "session.last_f_cnt_up", Value::U32(first + target));
            store.put(Table::Ns, &key, ns).expect("memory");
        });
        world.run().expect(0);
        let ns = world.on_target(Table::Ns, "abp-003").expect("moved");
        assert_eq!(
            path::number(&ns, "session.last_f_cnt_up"),
            u64::from(first + wanted),
            "{source} {target}"
        );
    }
}

#[test]
fn the_counters_are_set_while_the_target_is_muted() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    let before = world.device("abp-003").expect("there");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, tts) = (Arc::clone(&seen), Arc::clone(&world.target.tts));
    world.target.tts.on_applied(move |call| {
        if call.rpc() == "NsEndDeviceRegistry/Set" {
            let ns = tts.store().get(Table::Ns, &format!("{V2_APP}.abp-003")).cloned().expect("there");
            let down = path::number(&ns, "session.last_n_f_cnt_down");
            log.lock().expect("whole").push((is_muted(&ns), down));
        }
    });
    world.run().expect(0);
    let (old, new) =
        (last_n_f_cnt_down(before.f_cnt_down()), last_n_f_cnt_down(before.f_cnt_down()) + MARGIN);
    let (old, new) = (u64::from(old), u64::from(new));
    let mut states = seen.lock().expect("whole").clone();
    states.dedup();
    assert_eq!(states, [(true, old), (true, new), (false, new)]);
}

#[test]
fn a_device_that_is_reset_by_hand_begins_anew() {
    let world = V2World::some(&["abp-003"]);
    world.config(&PLAIN.replace("[transform]", "[transform]\nabp-reset = [\"abp-003\"]"));
    world.run().expect(0);
    let ns = world.on_target(Table::Ns, "abp-003").expect("moved");
    assert_eq!(path::number(&ns, "session.last_f_cnt_up"), 0);
    assert_eq!(path::number(&ns, "session.last_n_f_cnt_down"), 0);
}
