//! What becomes of the source.

use std::time::Duration;

use stackferry::{
    map::{path, ttn_v2::is_cleared},
    plan::handover::MARGIN,
    rehearsal::store::Table,
};

use crate::world::{
    is_muted,
    v2::{PLAIN, V2World},
};

const DEVICES: [&str; 3] = ["node-000", "node-001", "abp-003"];

#[test]
fn keys_and_sessions_go_and_the_rest_stays_as_it_was() {
    let world = V2World::some(&DEVICES);
    world.config(PLAIN);
    let before: Vec<_> = DEVICES.iter().map(|id| world.device(id).expect("there")).collect();
    world.run().expect(0);
    for (id, before) in DEVICES.iter().zip(before) {
        let after = world.device(id).expect("nothing is deleted");
        assert!(is_cleared(after.message(), before.has_session()), "{id}");
        assert_eq!((after.app_eui(), after.dev_eui()), (before.app_eui(), before.dev_eui()), "{id}");
        assert_eq!(after.location(), before.location(), "{id}");
        assert_eq!(
            after.f_cnt_up(),
            before.f_cnt_up(),
            "{id}: SetDevice writes the counters that it is sent"
        );
        assert_eq!(after.uses_32_bit_f_cnt(), before.uses_32_bit_f_cnt(), "{id}");
    }
}

#[test]
fn a_dropped_session_stays_at_the_source_until_the_device_joins_the_target() {
    let world = V2World::some(&["node-001"]);
    world.config(&PLAIN.replace("[transform]", "[transform]\nsession = \"drop\""));
    let before = world.device("node-001").expect("there");
    world.run().expect(0);
    let after = world.device("node-001").expect("there");
    assert!(is_cleared(after.message(), false) && after.has_session(), "only the AppKey goes");
    assert_eq!(after.dev_addr(), before.dev_addr());
    assert_eq!(after.f_cnt_up(), before.f_cnt_up());
    assert_eq!(
        after.f_cnt_down(),
        before.f_cnt_down() + MARGIN,
        "what it has sent since it was read is not sent again"
    );
    assert!(!path::has(&world.on_target(Table::Ns, "node-001").expect("moved"), "session"));
}

#[test]
fn with_nothing_cleared_or_the_clear_on_hold_the_copies_stay_muted() {
    for more in ["[clear]\nmode = \"nothing\"", "[clear]\nhold = true"] {
        let world = V2World::some(&DEVICES);
        world.config(&format!("{PLAIN}{more}"));
        let ran = world.run().expect(0);
        assert!(ran.out.contains("waiting") || ran.out.contains("hold"), "{}", ran.out);
        for id in DEVICES {
            let ns = world.on_target(Table::Ns, id).expect("made");
            assert!(is_muted(&ns), "{id} is live on both sides");
            assert!(!is_cleared(world.device(id).expect("there").message(), true), "{id}");
        }
        world.call("verify", &[]).expect(0);
    }
}

#[test]
fn clear_goes_on_after_a_hold() {
    let world = V2World::some(&DEVICES);
    world.config(&format!("{PLAIN}[clear]\nhold = true"));
    world.run().expect(0);
    world.call("clear", &["--yes"]).expect(0);
    for id in DEVICES {
        assert!(!is_muted(&world.on_target(Table::Ns, id).expect("made")), "{id} goes live");
        assert!(is_cleared(world.device(id).expect("there").message(), true), "{id}");
    }
}

#[test]
fn a_delete_comes_after_the_copy_is_live() {
    let world = V2World::some(&DEVICES);
    world.config(&format!("{PLAIN}[clear]\nmode = \"delete\"\nwhen = \"verified\""));
    world.run().expect(0);
    assert_eq!(world.ids(), [""; 0]);
    let calls: Vec<_> = world.v2.calls().into_iter().filter(|c| c.entity.ends_with("abp-003")).collect();
    let at = |rpc: &str| calls.iter().position(|c| c.rpc() == rpc).expect(rpc);
    assert!(at("ApplicationManager/SetDevice") < at("ApplicationManager/DeleteDevice"), "the keys go first");
}

#[test]
fn mute_as_the_mode_is_refused_with_what_to_write() {
    let world = V2World::some(&["abp-003"]);
    world.config(&format!("{PLAIN}[clear]\nmode = \"mute\""));
    world.run().expect(2).says("V2 cannot be muted");
}

#[test]
fn a_clear_that_is_not_taken_is_noticed() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    // Whoever answers for V2 says yes and does nothing.
    world.v2.on_call(|call| {
        let swallow = call.rpc() == "ApplicationManager/SetDevice";
        swallow.then_some(stackferry::rehearsal::Fault::Delay(Duration::ZERO))
    });
    let id = "abp-003";
    let v2 = std::sync::Arc::clone(&world.v2);
    let original = world.device(id).expect("there").message().clone();
    world.v2.on_applied(move |call| {
        if call.rpc() == "ApplicationManager/SetDevice" {
            v2.take_devices(vec![original.clone()], crate::world::v2::V2_APP).expect("memory");
        }
    });
    world.run().expect(3).says("still holds the keys");
    assert!(is_muted(&world.on_target(Table::Ns, id).expect("made")), "S2: the source is live");
}
