//! Paused until the first device is live; paused or deleted at the source once the last one is done.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::path,
    rehearsal::{Fault, store::Table},
};
use tonic::Code;

use super::scene::{MOVED, TARGET, all_copied, config, everything, held, writes};
use crate::world::{APP, World, dev};

fn is_paused(world: &World, hook: &str) -> bool {
    path::flag(&world.target.record(Table::Webhooks, TARGET, hook).expect("it was created"), "paused")
}

#[test]
fn what_is_to_wait_begins_with_the_first_device() {
    let world = everything();
    config(&world, "", "[integrations]\npaused = true\n[rollout]\nin-flight = 1");
    world.call("plan", &[]).expect(0).says("cannot-pause: pub/subs cannot be paused");
    world.target.tts.on_call(|call| {
        let live = call.method.ends_with("NsEndDeviceRegistry/Set");
        live.then_some(Fault::Status(Code::Unavailable))
    });
    world.run().expect(3).says("waits: it is paused until the first device is live");
    assert!(["hook-main", "hook-full", "hook-paused"].iter().all(|hook| is_paused(&world, hook)));
    assert_eq!(world.target.count(Table::PubSubs, TARGET), 0);
    let before =
        world.target.writes().iter().filter(|w| w.contains("Webhook") || w.contains("PubSub")).count();
    world.run().expect(3);
    let after =
        world.target.writes().iter().filter(|w| w.contains("Webhook") || w.contains("PubSub")).count();
    assert_eq!(after, before, "nothing to do about them yet");
    world.call("verify", &[]).expect(0);
    world.target.tts.unhook();
    world.run().expect(0).says("2 devices moved");
    all_copied(&world);
    assert!(!is_paused(&world, "hook-full") && is_paused(&world, "hook-paused"), "as at the source");
    world.call("verify", &[]).expect(0);
}

/// Devices that are cleared once they are seen on the target; and what the source held before.
fn waits_for_a_device(how: &str) -> (World, BTreeMap<String, DynamicMessage>) {
    let world = everything();
    config(&world, "", &format!("[clear]\nmode = \"keys\"\nwhen = \"seen\"\nintegrations = \"{how}\""));
    world.source.remove(Table::Packages, APP, "dev-00005.197");
    // All of its devices move: one that stays would keep them.
    for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
        if world.source.record(table, APP, &dev(5)).is_some() {
            world.source.remove(table, APP, &dev(5));
        }
    }
    let before = held(&world.source);
    world.run().expect(0).says("2 devices waiting").says("it stays at the source until all devices are done");
    all_copied(&world);
    assert_eq!(held(&world.source), before, "nothing of it was touched yet");
    for number in MOVED {
        world.target.edit(Table::Ns, TARGET, &format!("acme-{}", dev(number)), |ns| {
            let seen = path::number(ns, "session.last_f_cnt_up") as u32 + 1;
            path::set(ns, "session.last_f_cnt_up", Value::U32(seen));
        });
    }
    world.run().expect(0).says("2 devices moved");
    let done = writes(&world);
    world.run().expect(0);
    assert_eq!(writes(&world), done, "S6");
    (world, before)
}

#[test]
fn the_source_s_are_paused_once_all_devices_are_done() {
    let (world, before) = waits_for_a_device("pause");
    for hook in ["hook-main", "hook-full", "hook-paused"] {
        assert!(
            path::flag(&world.source.record(Table::Webhooks, APP, hook).expect("kept"), "paused"),
            "{hook}"
        );
    }
    assert_eq!(world.source.count(Table::PubSubs, APP), 3, "they cannot be paused");
    assert!(!is_paused(&world, "hook-full"));
    world.call("rollback", &["--yes"]).expect(0).says("around the devices: 12 taken back");
    assert_eq!(held(&world.source), before);
}

#[test]
fn the_source_s_are_deleted_once_all_devices_are_done() {
    let (world, _) = waits_for_a_device("delete");
    for table in [Table::Webhooks, Table::PubSubs, Table::PackageDefaults, Table::Packages] {
        assert_eq!(world.source.count(table, APP), 0, "{table:?}");
    }
    assert!(world.source.tts.store().get(Table::ActivationSettings, APP).is_some());
    assert!(world.source.tts.store().get(Table::Links, APP).is_some());
}

fn renamed(mut is: DynamicMessage) -> DynamicMessage {
    path::set(&mut is, "ids.device_id", Value::String("new-one".into()));
    path::clear(&mut is, "ids.dev_eui");
    path::clear(&mut is, "ids.join_eui");
    is
}

#[test]
fn what_was_edited_at_the_source_since_is_not_deleted() {
    let world = everything();
    config(
        &world,
        "",
        "[clear]\nmode = \"keys\"\nwhen = \"verified\"\nintegrations = \"delete\"\nhold = true",
    );
    for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
        if world.source.record(table, APP, &dev(5)).is_some() {
            world.source.remove(table, APP, &dev(5));
        }
    }
    world.run().expect(0);
    // A device that is new at the source keeps what its data goes out by.
    let is = world.source.record(Table::Is, APP, &dev(1)).expect("kept");
    world.source.tts.store().put(Table::Is, &format!("{APP}.new-one"), renamed(is)).expect("memory");
    world.call("clear", &["--yes"]).expect(0).says("until all devices are done: new-one is not");
    assert_eq!(world.source.count(Table::Webhooks, APP), 3);
    world.source.remove(Table::Is, APP, "new-one");
    world.source.edit(Table::Webhooks, APP, "hook-main", |hook| {
        path::set(hook, "base_url", Value::String("https://canary-edit.example.com".into()));
    });
    world.call("clear", &["--yes"]).expect(3).says("webhook hook-main: it was edited at the source");
    assert_eq!(world.source.count(Table::Webhooks, APP), 1);
    assert_eq!(world.source.count(Table::PubSubs, APP), 0);
}
