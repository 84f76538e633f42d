//! Gateways of a run whose applications are found by a shape: what was never begun counts, too, there and back.

use std::{fs, time::Duration};

use prost_reflect::DynamicMessage;
use stackferry::{
    map::path,
    plan::belongings::{collaborator, rights},
    proto,
    rehearsal::{Fault, store::Table},
};
use tonic::Code;

use super::{
    cups::{CUPS, managed},
    scene::{ONE, config, gateway, keys, text, world_of_cups},
};
use crate::world::{APP, Ran, Side, World, dev};

const LATER: &str = "later-app";

/// The configuration of one gateway, with a shape in place of the application.
fn config_by_shape(world: &World, clear: &str) {
    let clear = format!("[clear]\nmode = \"keys\"\ngateways = \"delete\"\n{clear}");
    config(world, &format!("ids = [\"roof-3\"]\n{CUPS}\nwait = \"10m\""), &clear);
    let at = world.dir.path().join("move.toml");
    let written = fs::read_to_string(&at).expect("written");
    let (sides, rest) = written.split_once("[[application]]").expect("one");
    let (_, rest) = rest.split_once("target = ").expect("it has one");
    let (_, rest) = rest.split_once('\n').expect("more lines");
    let text = format!("{sides}[[application]]\nsource = \"*\"\ntarget = \"acme-*\"\n{rest}");
    fs::write(at, text).expect("ours");
}

/// Runs, and presses Ctrl-C at the first call of this method on the target.
fn interrupted_at(world: &World, rpc: &'static str) -> Ran {
    let (sender, asked) = std::sync::mpsc::channel();
    world.target.tts.on_call(move |call| {
        if call.rpc() == rpc {
            let _ = sender.send(());
        }
        None
    });
    let child = world.start();
    if asked.recv_timeout(Duration::from_secs(20)).is_err() {
        panic!("{rpc} was not called: {:?}", Ran::of(child.wait_with_output().expect("it ends")).out);
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process ID"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    world.target.tts.unhook();
    ran
}

fn there(side: &Side) -> DynamicMessage {
    gateway(side, "roof-3").expect("its ID stays taken")
}

fn is_deleted(side: &Side) -> bool {
    path::has(&there(side), "deleted_at")
}

/// One more application of the source.
fn put_later(world: &World) {
    let mut application = proto::message("Application");
    path::set(&mut application, "ids.application_id", text(LATER));
    world.source.tts.store().put(Table::Applications, LATER, application).expect("memory");
    owned(world, LATER);
}

/// Makes the administrator a collaborator of an application of the source, who then lists it.
fn owned(world: &World, app: &str) {
    let mut owner = proto::message("Collaborator");
    collaborator::write(&mut owner, "ids.", "user admin");
    path::set(&mut owner, "rights", rights::value([rights::ALL]));
    let key = format!("app:{app}/usr:admin");
    world.source.tts.store().put(Table::Collaborators, &key, owner).expect("memory");
}

#[test]
fn what_was_never_begun_keeps_no_rollback_from_them_and_keeps_them_at_the_source() {
    let world = world_of_cups();
    owned(&world, APP);
    managed(&world, "roof-3", 3);
    config_by_shape(&world, "hold = true");
    // Ctrl-C before it is sent anywhere; then in the wait, when no application is begun yet.
    let ran = interrupted_at(&world, "GatewayRegistry/Create").expect(130);
    ran.says("gateways: 1 waiting (roof-3): the run was interrupted, and the next one goes on with it");
    assert!(!path::has(&there(&world.source), "target_cups_uri"));
    interrupted_at(&world, "Gs/GetGatewayConnectionStats").expect(130).says("1 device not begun");
    assert!(path::has(&there(&world.source), "target_cups_uri"));
    world
        .call("status", &[])
        .expect(0)
        .says("gateways: 1 in the journal: 1 done")
        .says("API keys of gateways: 2 in the journal: 2 done");
    world.call("rollback", &["--yes"]).expect(0).says("gateways: 1 taken back");
    assert!(!path::has(&there(&world.source), "target_cups_uri") && is_deleted(&world.target));

    // There again. With an application that failed, and with one that is not begun, the source keeps its gateway.
    interrupted_at(&world, "Gs/GetGatewayConnectionStats").expect(130);
    world.target.tts.connect_gateway("roof-3", true).expect("memory");
    world.source.tts.connect_gateway("roof-3", false).expect("memory");
    world.run().expect(0);
    config_by_shape(&world, "");
    put_later(&world);
    world.source.tts.on_call(|call| {
        (call.rpc() == "ApplicationRegistry/Get" && call.entity.contains(LATER))
            .then_some(Fault::Status(Code::PermissionDenied))
    });
    let stays = "gateways: 1 waiting (roof-3): it stays at the source until all applications of the run have moved: \
                 later-app has not";
    world.run().expect(3).says(stays);
    world.source.tts.unhook();
    world.call("clear", &["--yes"]).expect(0).says(stays);
    assert!(!is_deleted(&world.source));

    // Back: not for one device alone, and not while one is still on the target.
    world
        .call("rollback", &["--dry-run", "--device", &dev(ONE)])
        .expect(0)
        .says("are not put back there by a rollback of some devices: roof-3");
    world.target.tts.connect_gateway("roof-3", false).expect("memory");
    world.source.tts.on_call(|call| {
        (call.is_write && call.rpc() == "NsEndDeviceRegistry/Set" && !call.entity.contains("stackferry"))
            .then_some(Fault::Status(Code::PermissionDenied))
    });
    let ran = world.call("rollback", &["--yes"]).expect(3);
    ran.says("gateways: 1 waiting (roof-3): it stays on the target until all devices are back at the source");
    assert!(!is_deleted(&world.target) && keys(&world.target, "roof-3").len() == 2);
    world.source.tts.unhook();
    world.call("rollback", &["--yes"]).expect(0).says("gateways: 1 taken back");
    assert!(is_deleted(&world.target));
}
