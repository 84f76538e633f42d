//! What is copied, what is left, and what is said of it.

use prost_reflect::Value;
use stackferry::{
    map::path,
    proto,
    rehearsal::{
        Fault, Settings,
        store::{Table, device_key},
    },
};
use tonic::Code;

use super::scene::{TARGET, all_copied, config, downlink_keys, everything, everything_in, held, writes};
use crate::world::{APP, World, dev};

#[test]
fn an_application_with_everything_is_copied_field_by_field() {
    let world = everything();
    config(&world, "", "");
    let plan = world.call("plan", &[]).expect(0);
    for line in [
        "+ webhooks to be copied: 3 (hook-full, hook-main, hook-paused)",
        "+ pub/subs to be copied: 3",
        "+ packages to be copied: 2 (199, 202)",
        "+ packages of devices to be copied: 2 (dev-00001 on FPort 197, dev-00003 on FPort 197)",
        "+ activation settings to be copied: 1",
    ] {
        assert!(plan.out.contains(line), "{line}\n{}", plan.out);
    }
    assert!(!plan.out.contains("webhooks are not copied"), "{}", plan.out);
    let json = world.call("plan", &["--output", "json"]).expect(0);
    assert!(
        json.out.contains(r#""id":"hook-full""#) && json.out.contains(r#""verdict":"create""#),
        "{}",
        json.out
    );
    world.call("rehearse", &[]).expect(0).says("around the devices: 12 copied");
    assert_eq!(writes(&world), (0, 0));

    world.run().expect(0).says("2 devices moved").says("around the devices: 12 copied");
    all_copied(&world);
    assert_eq!(downlink_keys(&world).len(), 3);
    let before = writes(&world);
    world.run().expect(0).says("around the devices: 12 there before");
    assert_eq!(writes(&world), before, "S6");
    world.call("verify", &[]).expect(0).says("around the devices: 12 as written");

    let mut link = world.target.tts.store().get(Table::Links, TARGET).cloned().expect("it is copied");
    let written = link.clone();
    path::clear(&mut link, "skip_payload_crypto");
    world.target.tts.store().put(Table::Links, TARGET, link).expect("memory");
    world.call("verify", &[]).expect(3).says("link: skip_payload_crypto");
    world.target.tts.store().put(Table::Links, TARGET, written).expect("memory");
    world.target.edit(Table::Webhooks, TARGET, "hook-full", |hook| path::clear(hook, "uplink_message"));
    world.call("verify", &["--output", "json"]).expect(3).says(r#""differences":["uplink_message.path"]"#);
}

#[test]
fn an_empty_list_copies_nothing_and_says_so() {
    let world = everything();
    config(&world, "copy = []", "");
    let plan = world.call("plan", &[]).expect(0).says("default payload formatters are not copied");
    plan.says("webhooks are not copied: 3 at the source");
    world.run().expect(0).says("2 devices moved");
    assert!(held(&world.target).keys().all(|k| k.starts_with("ApiKeys")), "{:?}", held(&world.target).keys());
}

/// The target's application is there, with a webhook of the same name that is another, and a pub/sub that is equal.
fn half_there(world: &World) {
    let mut store = world.target.tts.store();
    let mut app = proto::message("Application");
    path::set(&mut app, "ids.application_id", Value::String(TARGET.into()));
    store.put(Table::Applications, TARGET, app).expect("memory");
    for (table, key) in [(Table::Webhooks, "hook-full"), (Table::PubSubs, "nats-main")] {
        let mut message = world.source.record(table, APP, key).expect("there");
        path::set(&mut message, "ids.application_ids.application_id", Value::String(TARGET.into()));
        if table == Table::Webhooks {
            path::set(&mut message, "join_accept.path", Value::String("/theirs".into()));
        }
        store.put(table, &device_key(TARGET, key), message).expect("memory");
    }
}

#[test]
fn what_is_there_stays_as_it_is() {
    let world = everything();
    config(&world, "", "");
    half_there(&world);
    let before = held(&world.target);
    let plan = world.call("plan", &[]).expect(0);
    for line in [
        "! webhooks there with other values, which stay: 1 (hook-full)",
        "= pub/subs there, as at the source: 1 (nats-main)",
        "integration-differs: webhook hook-full: it is on the target already, differs, and stays as it is",
    ] {
        assert!(plan.out.contains(line), "{line}\n{}", plan.out);
    }
    world.run().expect(0).says("2 devices moved");
    let after = held(&world.target);
    for (name, message) in before {
        assert!(after[&name] == message, "{name}");
    }
    assert_eq!(downlink_keys(&world).len(), 2);
    let before = writes(&world);
    world.run().expect(0);
    assert_eq!(writes(&world), before, "S6");
}

#[test]
fn one_that_is_refused_stops_neither_the_others_nor_a_device() {
    let world = everything();
    config(&world, "", "");
    world.target.tts.on_call(|call| {
        call.method
            .ends_with("ApplicationWebhookRegistry/Set")
            .then_some(Fault::Status(Code::InvalidArgument))
    });
    let ran = world.run().expect(3).says("2 devices moved").says("around the devices: 9 copied");
    assert!(ran.out.contains("webhook hook-main not copied"), "{}", ran.out);
    assert_eq!(downlink_keys(&world).len(), 0, "their keys went again");
    world.target.tts.unhook();
    world.run().expect(0).says("around the devices: 3 copied");
    all_copied(&world);
}

#[test]
fn an_answer_that_is_lost_makes_nothing_twice() {
    let world = everything();
    config(&world, "", "");
    world.target.tts.on_call(|call| {
        let lost = [
            "ApplicationAccess/CreateAPIKey",
            "ApplicationWebhookRegistry/Set",
            "ApplicationPubSubRegistry/Set",
        ];
        (lost.contains(&call.rpc()) && call.n % 2 == 0).then_some(Fault::CutAfter)
    });
    for _ in 0..8 {
        if world.run().code == Some(0) {
            break;
        }
    }
    world.target.tts.unhook();
    world.run().expect(0);
    all_copied(&world);
}

#[test]
fn what_is_peculiar_is_found_in_the_plan() {
    let world = everything();
    config(&world, "", "");
    world.source.edit(Table::PubSubs, APP, "pubsub-1", |broker| {
        path::set(broker, "provider.mqtt.client_id", Value::String("meters".into()));
    });
    world.source.edit(Table::PackageDefaults, APP, "199", |package| {
        path::set(package, "package_name", Value::String("no-such-package".into()));
    });
    world.call("plan", &[]).expect(3).says("x pub/subs not copied: 1 (pubsub-1)").says("shared-client-id");
    // The packages of an application that is not there yet are asked for in the run.
    world
        .run()
        .expect(3)
        .says("2 devices moved")
        .says("unknown-package: default-package 199")
        .says("shared-client-id");
    config(&world, "", "");
    let file = world.dir.path().join("move.toml");
    let text = std::fs::read_to_string(&file).expect("there");
    std::fs::write(
        file,
        text.replace("allow-loss = [", "allow-loss = [\"shared-client-id\", \"unknown-package\", "),
    )
    .expect("ours");
    world.run().expect(0).says("around the devices: 2 copied");
    all_copied(&world);
    assert!(world.target.record(Table::Packages, TARGET, &format!("acme-{}.197", dev(1))).is_some());
}

#[test]
fn an_older_target_is_told_only_what_it_knows() {
    let old = Settings { refused_paths: vec!["uplink_normalized".to_owned()], ..Settings::default() };
    let world = everything_in(World::with(Settings::default(), old));
    config(&world, "copy = [\"webhooks\"]", "");
    world
        .call("plan", &[])
        .expect(3)
        .says("unsupported-paths: webhook hook-full")
        .says("x webhooks not copied: 2");
    config(&world, "copy = [\"webhooks\"]", "");
    let file = world.dir.path().join("move.toml");
    let text = std::fs::read_to_string(&file).expect("there");
    std::fs::write(file, text.replace("allow-loss = [", "allow-loss = [\"unsupported-paths\", "))
        .expect("ours");
    world.run().expect(0).says("around the devices: 3 copied");
    let hook = world.target.record(Table::Webhooks, TARGET, "hook-full").expect("copied");
    assert!(!path::has(&hook, "uplink_normalized") && path::has(&hook, "uplink_message.path"));
}

#[test]
fn a_key_that_may_not_is_told_so_before_anything_is_changed() {
    let world = everything();
    config(&world, "", "");
    world.source.tts.on_call(|call| {
        call.rpc().starts_with("ApplicationPackageRegistry").then_some(Fault::Status(Code::PermissionDenied))
    });
    let plan = world.call("plan", &[]).expect(0);
    assert!(plan.out.contains("not-copied: packages were not looked at"), "{}", plan.out);
    assert!(plan.out.contains("+ webhooks to be copied: 3"), "{}", plan.out);
}

#[test]
fn what_was_only_sealed_is_decided_anew() {
    let world = everything();
    config(&world, "copy = [\"webhooks\"]", "");
    world.target.tts.on_call(|call| {
        call.rpc().starts_with("ApplicationWebhookRegistry/Get").then_some(Fault::Status(Code::Unavailable))
    });
    world.run().expect(3).says("2 devices moved");
    assert_eq!(world.target.count(Table::Webhooks, TARGET), 0);
    world.target.tts.unhook();
    world.source.remove(Table::Webhooks, APP, "hook-main");
    world.source.edit(Table::Webhooks, APP, "hook-full", |hook| {
        path::set(hook, "join_accept.path", Value::String("/new".into()));
    });
    world.run().expect(0).says("around the devices: 2 copied");
    let hook = world.target.record(Table::Webhooks, TARGET, "hook-full").expect("copied");
    assert_eq!(path::string(&hook, "join_accept.path"), "/new");
    assert_eq!(world.target.count(Table::Webhooks, TARGET), 2);
}
