//! There: field by field, once, with the keys that were asked for.

use std::{fs, os::unix::fs::PermissionsExt as _};

use prost_reflect::Value;
use stackferry::{map::path, rehearsal::store::Table};

use super::scene::{FULL, MANAGED, config, expected, gateway, keys, put, same, stored, text, world};
use crate::world::World;

#[test]
fn every_field_is_there_and_a_second_run_writes_nothing() {
    let world = world();
    let before: Vec<_> = [FULL, MANAGED].iter().map(|id| gateway(&world.source, id)).collect();
    config(
        &world,
        "owner = { user = \"admin\" }\nid = { prefix = \"acme-\" }\n[people]\nusers = { admin = \"admin\" }",
        "",
    );
    let ran = world.run().expect(0).says("gateways: 5 registered");
    for id in [FULL, "gw-lab-0", "gw-lab-1"] {
        same(&stored(&world, &format!("acme-{id}")), &expected(&world, id, &format!("acme-{id}")));
    }
    let mut managed = expected(&world, MANAGED, "acme-roof-2");
    path::clear(&mut managed, "lbs_lns_secret");
    same(&stored(&world, "acme-roof-2"), &managed);
    let ran = ran.says("server_address 127.0.0.1, serv_port_up 1700").says("tc.uri wss://127.0.0.1:8887");
    ran.says("cups.uri https://127.0.0.1:443").says("acme-roof-1: EUI 58A0CBFFFE801001; no new API key");
    assert_eq!(
        [FULL, MANAGED].map(|id| gateway(&world.source, id)).to_vec(),
        before,
        "the source is only read"
    );
    let writes = (world.source.writes().len(), world.target.writes().len());
    world.run().expect(0).says("gateways: 5 there before");
    assert_eq!((world.source.writes().len(), world.target.writes().len()), writes, "S6");
    world.call("verify", &[]).expect(0).says("gateways: 5 as written");
    world.call("status", &[]).expect(0).says("gateways: 5 in the journal: 5 done");
    let mut edited = gateway(&world.target, "acme-roof-1").expect("there");
    path::set(&mut edited, "description", text("another"));
    world.target.tts.store().put(Table::Gateways, "acme-roof-1", edited).expect("memory");
    world.call("verify", &[]).expect(3).says("gateway roof-1: description");
}

#[test]
fn api_keys_have_the_least_rights_and_are_in_the_file_alone() {
    let world = world();
    config(
        &world,
        "ids = [\"roof-1\", \"roof-2\"]\napi-keys = [\"cups\", \"lns\"]\nkeys-file = \"new-keys.csv\"",
        "",
    );
    world
        .run()
        .expect(0)
        .says("the new LNS API key takes its place")
        .says("the keys are in ")
        .says("lns key ");
    let file = world.dir.path().join("new-keys.csv");
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let held = fs::read_to_string(&file).expect("text");
    assert_eq!(held.lines().count(), 5, "a header and four keys");
    for id in [FULL, MANAGED] {
        let found = keys(&world.target, id);
        let rights: Vec<_> = found.iter().map(|(_, rights)| rights.join(" ")).collect();
        let cups = "RIGHT_GATEWAY_INFO RIGHT_GATEWAY_SETTINGS_BASIC RIGHT_GATEWAY_READ_SECRETS";
        assert_eq!(rights, [cups, "RIGHT_GATEWAY_LINK"], "{found:?}");
        let store = world.target.tts.store();
        for (_, key) in store.iter(Table::ApiKeys).filter(|(key, _)| key.starts_with(&format!("gtw:{id}/"))) {
            let line = held.lines().find(|line| line.contains(&path::string(key, "id"))).expect("a line");
            assert!(
                line.starts_with(&format!("{id},58A0CBFFFE80")) && line.ends_with(&path::string(key, "key"))
            );
        }
    }
    let lns = held.lines().find(|line| line.starts_with("roof-2") && line.contains(",lns,")).expect("a line");
    let secret = path::bytes(&gateway(&world.target, MANAGED).expect("there"), "lbs_lns_secret.value");
    assert_eq!(
        String::from_utf8_lossy(&secret),
        lns.rsplit(',').next().expect("a key"),
        "CUPS hands out the new key"
    );
    let kept = path::bytes(&gateway(&world.target, FULL).expect("there"), "lbs_lns_secret.value");
    assert_eq!(kept, b"canary-lns-of-roof-1", "a secret that is no key of the source goes along");
    let writes = world.target.writes().len();
    fs::remove_file(&file).expect("ours");
    world.run().expect(0);
    assert_eq!(world.target.writes().len(), writes, "S6");
    assert_eq!(fs::read_to_string(&file).expect("made anew from the journal"), held);
    fs::remove_file(&file).expect("what is left is searched for keys");
}

#[test]
fn json_has_the_settings_of_each() {
    let world = world();
    config(&world, "ids = [\"roof-1\"]\napi-keys = [\"lns\"]", "");
    let ran = world.call("run", &["--yes", "--output", "json"]).expect(0);
    let last: serde_json::Value =
        serde_json::from_str(ran.out.lines().last().expect("a line")).expect("JSON");
    let one = &last["gateways"][0];
    assert_eq!((one["gateway"].as_str(), one["outcome"].as_str()), (Some("roof-1"), Some("done")));
    let settings = &one["settings"];
    assert_eq!(settings["eui"], "58A0CBFFFE801001");
    assert_eq!(settings["semtech_udp"], serde_json::Value::Null, "it must authenticate");
    assert_eq!(settings["basics_station_lns"]["uri"], "wss://127.0.0.1:8887");
    assert!(settings["basics_station_lns"]["key"]["id"].is_string());
    assert_eq!(settings["basics_station_cups"]["key"]["id"], serde_json::Value::Null);
    fs::remove_file(world.dir.path().join("gateway-keys.csv")).expect("it is there");
}

#[test]
fn what_came_to_be_there_meanwhile_is_left_alone() {
    let world = world();
    config(&world, "ids = [\"roof-1\", \"roof-2\"]", "");
    // The plan sees nothing of it: a deleted gateway of somebody else.
    let mut deleted = super::scene::full(FULL, 9);
    path::clear(&mut deleted, "ids.eui");
    path::set(
        &mut deleted,
        "deleted_at",
        gateway(&world.source, "gw-lab-0")
            .and_then(|g| path::get(&g, "created_at").map(std::borrow::Cow::into_owned))
            .expect("a time"),
    );
    put(&world.target, deleted.clone(), "somebody");
    world.run().expect(3).says("its ID is taken on the target").says("gateways: 1 registered");
    let there = gateway(&world.target, FULL).expect("as it was");
    assert!(path::has(&there, "deleted_at"));
}

#[test]
fn a_list_registers_gateways_of_v2() {
    let world = crate::world::v2::V2World::plain(1);
    let list = "[gateways]\nlist = [{ id = \"roof-1\", eui = \"58A0CBFFFE800009\", frequency-plan = \"EU_863_870_TTN\", name = \"Roof\" }]\n";
    world.config(&format!("{}\n{list}", crate::world::v2::PLAIN));
    world.run().expect(0).says("gateways: 1 registered");
    let there = world.target.tts.store().get(Table::Gateways, "roof-1").cloned().expect("there");
    assert_eq!(path::string(&there, "name"), "Roof");
    assert_eq!(
        path::get(&there, "frequency_plan_ids").as_deref(),
        Some(&Value::List(vec![text("EU_863_870_TTN")]))
    );
}

#[test]
fn inside_one_deployment_a_gateway_stays() {
    let world = World::one_deployment(&[1]);
    put(&world.source, super::scene::full(FULL, 1), "admin");
    let before = gateway(&world.source, FULL);
    world.config_to(
        crate::world::OTHER_APP,
        "[gateways]\nids = [\"roof-1\"]\n[transform]\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"delete\"",
    );
    world.run().expect(0).says("one deployment, which has it already: it stays as it is");
    assert_eq!(gateway(&world.source, FULL), before);
}

#[test]
fn a_rehearsal_registers_them_in_an_embedded_stack_alone() {
    let world = world();
    super::cups::managed(&world, "roof-3", 3);
    let which = format!("ids = [\"roof-1\", \"roof-3\"]\n{}\nwait = \"1h\"", super::cups::CUPS);
    config(&world, &which, "[clear]\nmode = \"keys\"\ngateways = \"delete\"");
    let ran = world.call("rehearse", &[]).expect(0).says("gateways: 2 registered");
    ran.says("gateway roof-3: the source's CUPS sends it to the target");
    assert_eq!((world.source.writes().len(), world.target.writes().len()), (0, 0));
    assert!(
        !world.dir.path().join("gateway-keys.csv").exists(),
        "keys of an embedded stack are of use to nobody"
    );
}
