//! What V2 answers, and what the user is told to do about it.

use std::{fs, time::Duration};

use prost_reflect::Value;
use stackferry::{
    map::path,
    rehearsal::{Fault, V2Settings, store::Table},
};
use tonic::Code;

use crate::world::{
    Ran,
    v2::{DEVICES_ONLY, PLAIN, V2World},
};

fn plan_with(world: &V2World, key: &str) -> Ran {
    Ran::of(world.command("plan").env("V2_KEY", key).output().expect("it starts"))
}

#[test]
fn each_refusal_says_what_to_do() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    let other = "ttn-account-v2.CANARYotherCANARYotherCANARYotherCANARYot1";
    plan_with(&world, other).expect(5).says("check `access-key`");
    let cases: [(Code, &str, &str); 8] = [
        (Code::Unknown, "Application not found", "check `access-key`"),
        (Code::Unknown, "Auth server \"ttn-account-v9\" not registered", "made for this network"),
        (
            Code::PermissionDenied,
            "permission denied: unable to parse token: token is expired by 5s",
            "check `access-key`",
        ),
        (
            Code::PermissionDenied,
            "permission denied: No \"devices\" rights to Application \"fleet-v2\"",
            "add the right `devices`",
        ),
        (
            Code::NotFound,
            "Application not registered to this Handler: handler:application:fleet-v2 not found",
            "registered at another handler",
        ),
        (Code::InvalidArgument, "Metadata not valid: neither token nor key present", "check `access-key`"),
        (Code::Unimplemented, "unknown service handler.ApplicationManager", "1904"),
        (Code::Internal, "Internal error: boom", "boom"),
    ];
    for (code, text, advice) in cases {
        let world = V2World::some(&["abp-003"]);
        world.config(PLAIN);
        world.v2.on_call(move |call| {
            (call.rpc() == "ApplicationManager/GetDevicesForApplication").then_some(Fault::Text(code, text))
        });
        let ran = world.call("plan", &[]);
        assert_ne!(ran.code, Some(0), "{text}");
        assert!(ran.err.contains(advice), "{text}: {advice}\n{}", ran.err);
    }
}

#[test]
fn an_application_that_discovery_does_not_know_is_named() {
    let world = V2World::some(&["abp-003"]);
    world.config(&PLAIN.replace("fleet-v2", "nope-v2"));
    let ran = world.call("plan", &[]);
    assert_ne!(ran.code, Some(0));
    assert!(ran.err.contains("nope-v2") && ran.err.contains("discovery knows no handler"), "{}", ran.err);
}

#[test]
fn without_the_settings_right_the_payload_functions_are_a_finding() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    let ran = plan_with(&world, DEVICES_ONLY).expect(0);
    assert!(ran.out.contains("the right `settings`") && ran.out.contains("Access keys"), "{}", ran.out);
}

#[test]
fn a_handler_with_another_certificate_is_refused_before_the_key_is_sent() {
    let world = V2World::some(&["abp-003"]);
    world.config(PLAIN);
    let discovery = world.served().discovery_certificate.clone().expect("TLS");
    world.v2.announce_otherwise(|a| path::set(a, "certificate", Value::String(discovery)));
    let before = world.calls();
    let ran = world.call("plan", &[]);
    assert_ne!(ran.code, Some(0));
    assert!(ran.err.contains("unknown CA") && ran.err.contains("that discovery announces"), "{}", ran.err);
    assert_eq!(world.calls(), before, "nothing was sent to the handler");
}

#[test]
fn a_discovery_server_that_is_not_trusted_is_refused() {
    let world = V2World::some(&["abp-003"]);
    let config = world.config(PLAIN);
    let text = fs::read_to_string(&config).expect("ours").replace("ca = \"discovery.pem\"\n", "");
    fs::write(&config, text).expect("ours");
    let ran = world.call("plan", &[]);
    assert_ne!(ran.code, Some(0));
    assert!(
        ran.err.contains("that of a CA") && ran.err.contains("`ca = \"ca.pem\"`, that of its CA, or its own"),
        "{}",
        ran.err
    );
}

#[test]
fn a_handler_can_be_named_with_its_certificate() {
    let world = V2World::some(&["abp-003"]);
    let port = world.served().handler.port();
    let config = world.config_with(&format!("handler = \"localhost:{port}\""), PLAIN);
    fs::write(world.dir.path().join("discovery.pem"), &world.served().certificate).expect("a file");
    assert!(config.exists());
    world.run().expect(0);
    let asked = world.v2.calls().into_iter().any(|c| c.method.starts_with("/discovery"));
    assert!(!asked, "discovery is not asked");
}

#[test]
fn a_refusal_for_the_rate_waits_and_goes_on() {
    for (code, text) in [
        (Code::ResourceExhausted, "Rate limit for client \"fleet-v2\" reached"),
        (Code::Internal, "Internal error: [ResourceExhausted] Rate limit for client \"fleet-v2\" reached"),
    ] {
        let world = V2World::some(&["node-000", "abp-003"]);
        world.config(PLAIN);
        let n = std::sync::atomic::AtomicUsize::new(0);
        world.v2.on_call(move |call| {
            let third = n.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 3 == 1;
            (third && call.rpc().starts_with("ApplicationManager")).then_some(Fault::Text(code, text))
        });
        world.run().expect(0);
        assert_eq!(world.target_keys(Table::Ns).len(), 2);
    }
}

#[test]
fn connections_that_the_handler_closes_are_made_anew() {
    let settings = V2Settings { connection_age: Some(Duration::from_millis(50)), ..V2Settings::default() };
    let world = V2World::with(settings);
    let listing = fs::read(crate::world::fixture("ttn-v2-fleet.json")).expect("the fixture");
    world.v2.load_devices(&listing, crate::world::v2::V2_APP).expect("a listing");
    world.config(&PLAIN.replace(
        "[transform]",
        "[transform]\ndevice-id = { rename = \"auto\" }\nallow-loss = [\"long-description\"]",
    ));
    world.run().expect(3);
    assert_eq!(world.target_keys(Table::Ns).len(), world.ids().len() - 2);
}
