//! CUPS sends gateways over, the run waits for them, and the source forgets them in the end; and all of it back.

use std::time::Duration;

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::path,
    model::ids::Eui64,
    proto,
    rehearsal::{CupsAnswer, EntityKind, store::Table},
};

use super::scene::{FULL, MANAGED, ONE, config, full, gateway, put, same, text, world_of_cups};
use crate::world::{APP, World, canaries, dev};

/// What every run of these tests says of its gateways.
pub const CUPS: &str = "api-keys = [\"lns\", \"cups\"]\ncups-redirect = true";
const SOURCE: &str = "https://cups.source.example:443";

/// A gateway that the source's CUPS has seen, and its key for it.
pub fn managed(world: &World, id: &str, seed: u64) -> Station {
    let mut gateway = full(id, seed);
    let seen = (prost_reflect::MapKey::String("cups-last-seen".into()), text("2026-11-25T12:00:00Z"));
    path::set(&mut gateway, "attributes", Value::Map([seen].into()));
    path::set(&mut gateway, "update_location_from_status", Value::Bool(false));
    let eui = Eui64::from_bytes(&path::bytes(&gateway, "ids.eui")).expect("an EUI");
    put(&world.source, gateway, "admin");
    world.source.tts.connect_gateway(id, true).expect("memory");
    let rights = ["GATEWAY_INFO", "GATEWAY_SETTINGS_BASIC", "GATEWAY_READ_SECRETS"];
    let key = world.source.tts.create_key(EntityKind::Gateway, id, &rights, None).expect("memory");
    world.canaries().add(canaries::api_key("source", &key));
    Station { id: id.to_owned(), eui, cups: SOURCE.to_owned(), key }
}

/// A gateway with LoRa Basics Station: where it asks, and with which key.
pub struct Station {
    id: String,
    eui: Eui64,
    cups: String,
    key: String,
}

impl Station {
    /// Asks its CUPS until that has no other CUPS for it, and goes where the last one sends it; true when that is the target.
    fn asks(&mut self, world: &World) -> bool {
        for _ in 0..3 {
            let side = if self.cups == SOURCE { &world.source } else { &world.target };
            let Ok(answer) = side.tts.cups(self.eui, &self.cups, &self.key) else { return false };
            if let CupsAnswer { lns_key: Some(key), .. } = &answer {
                return self.cups != SOURCE && self.connects(world, key);
            }
            self.key = answer.cups_key.expect("no LNS, so a key");
            let Some(uri) = answer.cups_uri else { return false };
            self.cups = uri;
        }
        false
    }

    fn connects(&self, world: &World, key: &str) -> bool {
        let store = world.target.tts.store();
        let ours = |(_, known): &(&str, &DynamicMessage)| path::string(known, "key") == key;
        let taken = store.iter(Table::ApiKeys).any(|known| ours(&known));
        drop(store);
        assert!(taken, "the target's LNS takes the key that its CUPS hands out");
        world.target.tts.connect_gateway(&self.id, true).expect("memory");
        world.source.tts.connect_gateway(&self.id, false).expect("memory");
        true
    }
}

fn writes(world: &World) -> (usize, usize) {
    (world.source.writes().len(), world.target.writes().len())
}

#[test]
fn cups_sends_them_the_run_waits_and_a_rollback_undoes_it() {
    let world = world_of_cups();
    let mut station = managed(&world, "roof-3", 3);
    let before = gateway(&world.source, "roof-3").expect("there");
    let more = "[clear]\nmode = \"keys\"\ngateways = \"delete\"";
    let which = format!("ids = [\"roof-1\", \"roof-2\", \"roof-3\"]\n{CUPS}\nwait = \"1s\"");
    config(&world, &which, more);
    let plan = world.call("plan", &[]).expect(0);
    plan.says("+ to be sent to the target by the source's CUPS: 1 (roof-3)")
        .says("gateway roof-1: the source's CUPS is not told to send it to the target: its CUPS has never seen it")
        .says("gateway roof-2: the source's CUPS is not told to send it to the target: it sends it to another CUPS already")
        .says("gcs.basic-station.allow-cups-uri-update")
        .says("- to be deleted at the source once the target has them connected: 3")
        .says("24 hours unless its operator has set another time");
    // It is to be sent, but the target has none of the three: the device keeps its session, and waits.
    let ran = world.run().expect(0).says("gateways: 3 registered");
    ran.says("waiting up to 1 s for gateways that the target has not connected: roof-1, roof-2, roof-3")
        .says("1 device waiting: it goes on with its session, and the target has not connected all gateways")
        .says("roof-3: EUI 58A0CBFFFE801003")
        .says("the source's CUPS sends it, when it asks next")
        .says("gateways: 3 waiting (roof-1, roof-2, roof-3): it stays at the source until all devices of the run are done");
    assert!(world.target.record(Table::Ns, APP, &dev(ONE)).is_none());
    assert!(world.source.record(Table::Js, APP, &dev(ONE)).is_some());
    let told = gateway(&world.source, "roof-3").expect("there");
    assert_eq!(path::string(&told, "target_cups_uri"), "https://127.0.0.1:443");
    let count = writes(&world);
    world.run().expect(0).says("gateways: 3 there before");
    assert_eq!(writes(&world), count, "S6");
    assert!(station.asks(&world), "the two CUPS bring it to the target");
    for id in [FULL, MANAGED] {
        world.target.tts.connect_gateway(id, true).expect("memory");
    }
    world.source.tts.connect_gateway(MANAGED, true).expect("memory");
    // All are there: the device moves and is cleared, then the gateways go that the source has no more.
    let ran = world.run().expect(0).says("1 device moved").says("gateways: 2 deleted at the source");
    ran.says(
        "gateways: 1 waiting (roof-2): it stays at the source until it is connected to the target alone",
    );
    for (id, gone) in [(FULL, true), (MANAGED, false), ("roof-3", true)] {
        let at_source = gateway(&world.source, id).expect("its ID stays taken");
        assert_eq!(path::has(&at_source, "deleted_at"), gone, "{id}");
    }
    world.call("verify", &[]).expect(0).says("gateways: 3 as written");
    let count = writes(&world);
    world.run().expect(0);
    assert_eq!(writes(&world), count, "S6");
    // Back: the source has all three as they were, and the target keeps those that it has connected.
    let ran = world.call("rollback", &["--dry-run"]).expect(0);
    ran.says("gateways to be restored at the source, if it still does so").says("2 (roof-1, roof-3)");
    let ran = world.call("rollback", &["--yes"]).expect(3);
    ran.says("gateway roof-3: it is connected to the target, and stays there").says("set target_cups_uri");
    let mut after = gateway(&world.source, "roof-3").expect("there");
    let mut wanted = before;
    for message in [&mut after, &mut wanted] {
        ["attributes", "updated_at", "created_at"].iter().for_each(|at| path::clear(message, at));
    }
    same(&after, &wanted);
    // The target's CUPS sends it home, by hand; with the connection goes what was made there.
    for id in [FULL, MANAGED, "roof-3"] {
        world.target.tts.connect_gateway(id, false).expect("memory");
    }
    world.call("rollback", &["--yes"]).expect(0).says("gateways: 3 taken back");
}

#[test]
fn what_was_changed_at_the_source_since_stays_as_it_is() {
    let world = world_of_cups();
    managed(&world, "roof-3", 3);
    config(&world, &format!("ids = [\"roof-3\"]\n{CUPS}"), "");
    // Somebody edits the gateway right before the redirect is written.
    let source = std::sync::Arc::clone(&world.source.tts);
    world.target.tts.on_applied(move |call| {
        if call.rpc() == "GatewayRegistry/Update" {
            let mut edited = source.store().get(Table::Gateways, "roof-3").cloned().expect("there");
            path::set(&mut edited, "name", text("Somebody's now"));
            source.store().put(Table::Gateways, "roof-3", edited).expect("memory");
        }
    });
    let ran = world.run().expect(3).says("gateway roof-3: it was edited at the source since it was planned");
    ran.says("its CUPS is not told to send it").says("(name)");
    let there = gateway(&world.source, "roof-3").expect("there");
    assert!(!path::has(&there, "target_cups_uri"), "nothing was written");
    world.target.tts.unhook();
    // As planned again: it is told; then somebody sends it elsewhere, which a rollback leaves.
    let mut there = there;
    path::set(&mut there, "name", path::get(&full("roof-3", 3), "name").expect("a name").into_owned());
    world.source.tts.store().put(Table::Gateways, "roof-3", there).expect("memory");
    world.run().expect(0).says("the source's CUPS sends it to the target");
    let mut elsewhere = gateway(&world.source, "roof-3").expect("there");
    path::set(&mut elsewhere, "target_cups_uri", text("https://elsewhere.example:443"));
    world.source.tts.store().put(Table::Gateways, "roof-3", elsewhere.clone()).expect("memory");
    world.call("rollback", &["--yes"]).expect(0).says("was edited there since, and stays");
    assert_eq!(gateway(&world.source, "roof-3"), Some(elsewhere));
}

#[test]
fn ctrl_c_ends_the_wait_and_what_a_source_restores_no_more_stays_on_the_target() {
    let world = world_of_cups();
    managed(&world, "roof-3", 3);
    let clear = "[clear]\nmode = \"keys\"\ngateways = \"delete\"";
    let which = format!("ids = [\"roof-3\"]\n{CUPS}\nwait = \"10m\"");
    config(&world, &which, clear);
    let (sender, asked) = std::sync::mpsc::channel();
    world.target.tts.on_call(move |call| {
        if call.rpc() == "Gs/GetGatewayConnectionStats" {
            let _ = sender.send(());
        }
        None
    });
    let child = world.start();
    asked.recv_timeout(Duration::from_secs(60)).expect("it waits");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process ID"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    crate::world::Ran::of(child.wait_with_output().expect("it ends")).expect(130).says("1 device not begun");
    world.target.tts.unhook();
    world.target.tts.connect_gateway("roof-3", true).expect("memory");
    world.source.tts.connect_gateway("roof-3", false).expect("memory");
    config(&world, &which, &format!("{clear}\nhold = true"));
    world.run().expect(0);
    assert!(!path::has(&gateway(&world.source, "roof-3").expect("there"), "deleted_at"), "held");
    config(&world, &which, clear);
    world.call("clear", &["--yes"]).expect(0).says("gateways: 1 deleted at the source");
    // Two days later.
    let mut deleted = gateway(&world.source, "roof-3").expect("its ID stays taken");
    path::set(&mut deleted, "deleted_at", Value::Message(proto::message("google.protobuf.Timestamp")));
    world.source.tts.store().put(Table::Gateways, "roof-3", deleted).expect("memory");
    world.target.tts.connect_gateway("roof-3", false).expect("memory");
    let ran = world.call("rollback", &["--yes"]).expect(3);
    ran.says("gateway roof-3: the source does not restore it any more").says("1 device brought back");
    assert!(!path::has(&gateway(&world.target, "roof-3").expect("there"), "deleted_at"), "S3");
}

#[test]
fn a_cups_that_may_send_nobody_away_locks_the_gateway_out_as_the_plan_warns() {
    // What `caution` says of the real server, in the embedded one.
    let world = super::scene::world();
    let mut station = managed(&world, "roof-3", 3);
    config(&world, &format!("ids = [\"roof-3\"]\n{CUPS}"), "");
    world.run().expect(0);
    assert!(!station.asks(&world) && station.cups == SOURCE);
    assert!(world.source.tts.cups(station.eui, SOURCE, &station.key).is_err(), "it has the target's key");
}
