//! What the plan says before anything is written.

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::{generate, path},
    proto,
    rehearsal::{EntityKind, store::Table},
};

use super::scene::{FULL, MOVED, config, config_for, full, put, text, world};
use crate::world::{APP, World, dev};

fn plan(world: &World) -> serde_json::Value {
    let writes = (world.source.writes().len(), world.target.writes().len());
    let ran = world.call("plan", &["--output", "json"]);
    assert_eq!((world.source.writes().len(), world.target.writes().len()), writes, "a plan changes nothing");
    let line = ran.out.lines().find(|line| line.contains("\"planned\"")).expect("a plan");
    serde_json::from_str(line).expect("JSON")
}

/// Verdict and kinds of findings of one gateway.
fn of(plan: &serde_json::Value, id: &str) -> (String, Vec<String>) {
    let all = plan["gateways"].as_array().expect("a list");
    let one = all.iter().find(|g| g["gateway"] == id).unwrap_or_else(|| panic!("{id} is planned"));
    let kinds = one["findings"].as_array().expect("a list").iter();
    (
        one["verdict"].as_str().expect("a word").to_owned(),
        kinds.map(|f| f["kind"].as_str().expect("a kind").to_owned()).collect(),
    )
}

fn stop(kind: &str) -> (String, Vec<String>) {
    ("stop".to_owned(), vec![kind.to_owned()])
}

#[test]
fn every_way_in_which_a_gateway_cannot_go_is_found() {
    type Prepare = fn(&World);
    let cases: [(&str, Prepare, &str); 5] = [
        ("gateway-eui-taken", |world| put(&world.target, with_id(full(FULL, 1), "another"), "admin"), ""),
        ("id-taken", |world| put(&world.target, full(FULL, 77), "somebody"), ""),
        (
            "id-taken",
            |world| {
                let mut deleted = full(FULL, 77);
                path::set(
                    &mut deleted,
                    "deleted_at",
                    Value::Message(proto::message("google.protobuf.Timestamp")),
                );
                put(&world.target, deleted, "admin");
            },
            "",
        ),
        ("frequency-plan", |world| edit(world, "frequency_plan_ids", Value::List(vec![text("MARS_1")])), ""),
        ("invalid-field", |world| edit(world, "update_channel", text(&"x".repeat(129))), ""),
    ];
    for (kind, prepare, more) in cases {
        let world = world();
        prepare(&world);
        config(&world, &format!("ids = [\"roof-1\"]\n{more}\n[people]\nusers = {{ admin = \"admin\" }}"), "");
        let (verdict, kinds) = of(&plan(&world), FULL);
        let only: Vec<_> = kinds.into_iter().filter(|k| k != "replaced").collect();
        assert_eq!((verdict, only), stop(kind));
        if kind == "frequency-plan" {
            world.run().expect(3).says(kind);
            assert!(!world.target.writes().iter().any(|m| m.contains("Gateway")), "{kind}");
        }
    }
}

fn with_id(mut gateway: DynamicMessage, id: &str) -> DynamicMessage {
    path::set(&mut gateway, "ids.gateway_id", text(id));
    gateway
}

fn edit(world: &World, at: &str, value: Value) {
    let mut store = world.source.tts.store();
    let mut gateway = store.get(Table::Gateways, FULL).cloned().expect("there");
    path::set(&mut gateway, at, value);
    store.put(Table::Gateways, FULL, gateway).expect("memory");
}

#[test]
fn a_prefix_that_makes_an_id_too_long_is_found() {
    let world = world();
    config(&world, "ids = [\"gw-lab-0\"]\nid = { prefix = \"a-prefix-of-thirty-characters-\" }", "");
    let (verdict, kinds) = of(&plan(&world), "gw-lab-0");
    assert!(verdict == "stop" && kinds.contains(&"bad-id".to_owned()), "{kinds:?}");
}

#[test]
fn what_is_said_of_gateways_that_go() {
    let world = world();
    config(&world, "glob = [\"roof-*\"]\nid = { prefix = \"acme-\" }\napi-keys = [\"lns\"]", "");
    let planned = plan(&world);
    assert_eq!(of(&planned, FULL).0, "create");
    let (_, kinds) = of(&planned, "roof-2");
    assert_eq!(kinds, ["gateway-secret", "gateway-contact", "gateway-secret", "replaced"]);
    let ran = world
        .call("plan", &[])
        .expect(0)
        .says("+ to be registered: 2 (roof-1 as acme-roof-1, roof-2 as acme-roof-2)");
    ran.says("+ API keys for lns to be made: 2").says("say in [people] who user admin is");
    assert!(plan(&world)["gateways"][0]["eui"] == "58A0CBFFFE801001");
}

#[test]
fn a_plan_that_is_not_that_any_more_is_refused() {
    let world = world();
    config(&world, "ids = [\"roof-1\"]", "");
    let out = world.dir.path().join("plan.json");
    let out = out.to_str().expect("a path");
    world.call("plan", &["--out", out]).expect(0);
    put(&world.target, with_id(full(FULL, 1), "another"), "admin");
    world.call("run", &["--yes", "--plan", out]).expect(2).says("gateway roof-1: `create as roof-1");
}

#[test]
fn rights_that_are_missing_are_named() {
    let world = world();
    let key = |rights: &[&str]| {
        world.source.tts.create_key(EntityKind::User, "admin", rights, None).expect("memory")
    };
    let blind = key(&["GATEWAY_INFO", "USER_GATEWAYS_LIST", "APPLICATION_ALL"]);
    world.canaries().add(crate::world::canaries::api_key("source", &blind));
    config(&world, "ids = [\"roof-1\"]\napi-key = { env = \"GATEWAYS_KEY\" }", "");
    let planned = |key: &str| {
        let ran = crate::world::Ran::of(
            world.command("plan").env("GATEWAYS_KEY", key).output().expect("it starts"),
        );
        ran.expect(3)
    };
    planned(&blind).says("secret-unreadable: gateway roof-1").says("RIGHT_GATEWAY_READ_SECRETS");
    let none = key(&["APPLICATION_ALL"]);
    planned(&none).says("rights: gateway roof-1: the API key of the source may not read it");
    config(&world, "ids = [\"roof-2\"]\napi-keys = [\"cups\"]", "");
    world.run().expect(0);
    for file in ["test.journal", "test.journal.key", "test.journal.lock", "gateway-keys.csv"] {
        std::fs::remove_file(world.dir.path().join(file)).expect("ours");
    }
    let app = world
        .target
        .tts
        .create_key(
            EntityKind::User,
            "admin",
            &["USER_APPLICATIONS_CREATE", "APPLICATION_ALL", "GATEWAY_INFO", "GATEWAY_READ_SECRETS"],
            None,
        )
        .expect("memory");
    config(&world, "ids = [\"roof-1\"]\napi-keys = [\"cups\"]", "");
    let mut command = world.command("plan");
    let ran = crate::world::Ran::of(command.env("TARGET_KEY", &app).output().expect("it starts"));
    ran.expect(3)
        .says("lacks rights to register gateways")
        .says("RIGHT_USER_GATEWAYS_CREATE")
        .says("RIGHT_GATEWAY_SETTINGS_API_KEYS");
}

/// The devices of the fixture were heard by these gateways.
fn heard(world: &World, device: usize, gateways: &[&str]) {
    world.source.edit(Table::Ns, APP, &dev(device), |ns| {
        let leaves = ["payload", "settings", "received_at"];
        let mut uplink = generate::valid("MACState.UplinkMessage", leaves, 3);
        let metadata = gateways.iter().map(|id| {
            let mut one = proto::message("MACState.UplinkMessage.RxMetadata");
            path::set(&mut one, "gateway_ids.gateway_id", text(id));
            if *id == "packetbroker" {
                path::touch(&mut one, "packet_broker");
            }
            Value::Message(one)
        });
        path::set(&mut uplink, "rx_metadata", Value::List(metadata.collect()));
        path::set(ns, "mac_state.recent_uplinks", Value::List(vec![Value::Message(uplink)]));
    });
}

#[test]
fn who_hears_the_devices_is_said_in_a_few_lines() {
    let world = world();
    heard(&world, 1, &["elsewhere-1", "elsewhere-2"]);
    heard(&world, 3, &["packetbroker", FULL]);
    config_for(&world, &MOVED, "ids = [\"roof-1\"]", "");
    let ran = world
        .call("plan", &[])
        .expect(0)
        .says("of 2 devices that were heard lately, 1 are heard by gateways that move");
    ran.says("1 keep their session and are heard by no gateway that moves, of which 1 have a DevAddr outside the target's blocks: dev-00001 (elsewhere-1, elsewhere-2)");
    config(&world, "ids = [\"roof-1\", \"gw-lab-0\"]\nmax-gateways = 1", "");
    world.call("plan", &[]).expect(2).says("gateways.max-gateways is 1");
}

#[test]
fn a_session_is_held_where_gateways_that_were_to_go_along_cannot() {
    // The wait is for what can come: nobody is waited for here, and the device is held all the same.
    for (which, kind, words) in [
        (
            "ids = [\"roof-1\", \"nowhere\"]",
            "nowhere",
            "not all gateways are registered on the target (gateways.wait): nowhere",
        ),
        ("glob = [\"nowhere-*\"]", "matches no gateway", "[gateways] matches no gateway (gateways.wait)"),
    ] {
        let world = world();
        config(&world, &format!("{which}\nwait = \"1h\""), "");
        world.call("plan", &[]).expect(3).says(kind);
        world.run().expect(3).says(&format!("1 device waiting: it goes on with its session, and {words}"));
        assert!(world.target.record(Table::Ns, APP, &dev(1)).is_none());
    }
}
