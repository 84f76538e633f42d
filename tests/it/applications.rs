//! Many applications in one run: by name and by shape, each with its own end.

use std::fs;

use prost_reflect::Value;
use stackferry::{
    map::path,
    plan::belongings::{collaborator, rights},
    proto,
    rehearsal::{CallInfo, EntityKind, Fault, Settings, load, store::Table},
};
use tonic::Code;

use crate::world::{APP, Ran, World, canaries, dev, fixture};

const COMMON: &str = "copy = [\"formatters\", \"webhooks\"]\n";
const TAIL: &str = "[transform]\nsession = \"keep\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n";

/// The fixture's application and these devices of it, under another ID.
fn put(world: &World, app: &str, numbers: &[usize]) {
    let at = |name: &str| fs::read_to_string(fixture(name)).expect("the fixture").replace(APP, app);
    let fleet = at("tts-fleet-100.jsonl");
    let lines: Vec<_> = fleet.lines().collect();
    let chosen: Vec<_> = numbers.iter().map(|n| lines[*n]).collect();
    let (devices, application) = (world.dir.path().join("some.jsonl"), world.dir.path().join("app.json"));
    fs::write(&devices, chosen.join("\n")).expect("a file");
    fs::write(&application, at("tts-fleet-application.json")).expect("a file");
    load(&world.source.tts, Some(&devices), Some(&application)).expect("the fixture loads");
    let mut owner = proto::message("Collaborator");
    collaborator::write(&mut owner, "ids.", "user admin");
    path::set(&mut owner, "rights", rights::value([rights::ALL]));
    world
        .source
        .tts
        .store()
        .put(Table::Collaborators, &format!("app:{app}/usr:admin"), owner)
        .expect("memory");
    for file in [devices, application] {
        fs::remove_file(file).expect("it is ours");
    }
}

/// Three applications; the last has a block of its own.
fn world() -> World {
    let world = World::empty();
    put(&world, "meter-a", &[1, 3]);
    put(&world, "meter-b", &[4]);
    put(&world, "valve", &[5]);
    world
}

fn config(world: &World, more: &str) {
    let whole = world.config_whole(APP, "");
    let text = fs::read_to_string(&whole).expect("written");
    let (sides, _) = text.split_once("[[application]]").expect("one");
    let blocks = format!(
        "[[application]]\nsource = \"*\"\ntarget = \"acme-*\"\n{COMMON}[[application]]\nsource = \"valve\"\n\
         target = \"acme-taps\"\n{COMMON}{TAIL}{more}"
    );
    fs::write(whole, format!("{sides}{blocks}")).expect("ours");
}

fn about(call: &CallInfo, rpc: &str, app: &str) -> bool {
    call.rpc() == rpc && call.entity.contains(app)
}

fn there(world: &World, app: &str) -> usize {
    world.target.count(Table::Ns, app)
}

fn json(world: &World, verb: &str, arguments: &[&str], event: &str) -> serde_json::Value {
    let ran = world.call(verb, &[arguments, &["--output", "json"]].concat());
    let mut lines = ran.out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
    lines.rfind(|line| line["event"] == event).expect("it is said")
}

fn writes(world: &World) -> (usize, usize) {
    (world.source.writes().len(), world.target.writes().len())
}

#[test]
fn one_that_cannot_be_read_stops_no_other_and_one_that_comes_later_is_taken_too() {
    let world = world();
    config(&world, "[clear]\nmode = \"delete\"\n");
    world.source.tts.on_call(|call| {
        about(call, "ApplicationRegistry/Get", "meter-a").then_some(Fault::Status(Code::PermissionDenied))
    });
    let failed = "application meter-a → acme-meter-a failed";
    world.call("plan", &[]).expect(3).says(failed).says("application meter-b → acme-meter-b");
    let ran =
        world.run().expect(3).says(failed).says("its devices were not looked at").says("2 devices moved");
    assert!(ran.out.contains("to go on: stackferry run"), "{}", ran.out);
    assert_eq!((there(&world, "acme-meter-b"), there(&world, "acme-taps")), (1, 1));
    assert_eq!(there(&world, "acme-meter-a") + there(&world, "acme-valve"), 0);
    let summary = json(&world, "run", &["--yes"], "summary");
    assert_eq!(summary["applications_failed"][0]["source"], "meter-a");
    assert_eq!((&summary["already"], &summary["exit_code"]), (&2.into(), &3.into()));

    // One that comes later is new; one that is gone and was begun is still known.
    world.source.tts.unhook();
    put(&world, "meter-c", &[11]);
    let mut gone = world.source.tts.store();
    let mut application = gone.remove(Table::Applications, "meter-b").expect("memory").expect("there");
    path::touch(&mut application, "deleted_at");
    gone.put(Table::Applications, "meter-b", application).expect("memory");
    drop(gone);
    let ran = world.run().expect(0).says("3 devices moved").says("2 devices done before");
    assert!(ran.err.contains("the source does not have the application any more"), "{}", ran.err);
    assert_eq!((there(&world, "acme-meter-a"), there(&world, "acme-meter-c")), (2, 1));
    let done = writes(&world);
    world.run().expect(0).says("5 devices done before");
    assert_eq!(writes(&world), done, "S6");
    world.call("verify", &[]).expect(0).says("5 devices on the target as written");
    world.call("status", &[]).expect(0).says("5 devices in the journal: 5 done");
    world.call("rehearse", &[]).expect(0).says("0 devices to move");

    world.target.tts.on_call(|call| {
        about(call, "NsEndDeviceRegistry/Get", "acme-meter-a")
            .then_some(Fault::Status(Code::PermissionDenied))
    });
    world.call("verify", &[]).expect(3).says(failed).says("3 devices on the target as written");
    world.target.tts.unhook();
    let back: Ran = world.call("rollback", &["--yes", "--application", "meter-c"]);
    back.expect(0).says("1 device brought back").says("acme-meter-c removed");
    assert!(world.source.record(Table::Ns, "meter-c", &dev(11)).is_some());
    assert_eq!(there(&world, "acme-meter-a"), 2);
}

#[test]
fn one_that_cannot_be_made_or_is_in_other_hands_stops_no_other_unless_asked() {
    let world = world();
    let refuse = || {
        world.target.tts.on_call(|call| {
            about(call, "ApplicationRegistry/Create", "acme-meter-a")
                .then_some(Fault::Status(Code::PermissionDenied))
        });
    };
    refuse();
    config(&world, "[rollout]\non-failure = \"stop\"\n");
    let ran =
        world.run().expect(3).says("application meter-a → acme-meter-a failed: it cannot be made ready");
    assert!(
        ran.out.contains("2 devices not begun: application meter-a failed (rollout.on-failure)"),
        "{}",
        ran.out
    );
    assert_eq!(there(&world, "acme-meter-b") + there(&world, "acme-taps"), 0);
    config(&world, "");
    let summary = json(&world, "run", &["--yes"], "summary");
    assert_eq!(
        (&summary["done"], &summary["not_begun"], &summary["stopped"]),
        (&2.into(), &2.into(), &0.into())
    );
    assert_eq!(summary["applications_failed"][0]["devices"], 2);
    world.target.tts.unhook();
    world.call("rollback", &["--yes"]).expect(0).says("2 devices brought back");
    assert_eq!(there(&world, "acme-meter-b") + there(&world, "acme-taps"), 0);

    // The marker of another run at the source.
    let mut marker = world.source.record(Table::Is, "meter-b", &dev(4)).expect("a device");
    path::set(&mut marker, "ids.device_id", Value::String("stackferry-lock".into()));
    world.source.tts.store().put(Table::Is, "meter-b.stackferry-lock", marker).expect("memory");
    world.run().expect(6).says("application meter-b → acme-meter-b failed").says("3 devices moved");
    world.source.remove(Table::Is, "meter-b", "stackferry-lock");
    world.run().expect(0).says("1 device moved");
}

#[test]
fn keys_that_are_no_administrators_see_and_make_what_is_theirs() {
    let world =
        World::with(Settings::default(), Settings { users: vec!["carol".into()], ..Settings::default() });
    put(&world, "meter-a", &[1]);
    put(&world, "meter-b", &[3]);
    config(&world, "");
    let file = world.dir.path().join("move.toml");
    let text = fs::read_to_string(&file).expect("written").replace("\"admin\"", "\"carol\"");
    let (text, valve) = text.split_once("[[application]]\nsource = \"valve\"").expect("the second");
    fs::write(file, format!("{text}[transform]{}", valve.split_once("[transform]").expect("it has one").1))
        .expect("ours");
    let own = world.source.tts.create_key(EntityKind::Application, "meter-b", &["APPLICATION_ALL"], None);
    let rights = ["USER_APPLICATIONS_CREATE", "APPLICATION_ALL"];
    let carols = world.target.tts.create_key(EntityKind::User, "carol", &rights, None);
    let (own, carols) = (own.expect("memory"), carols.expect("memory"));
    world.canaries().add(canaries::api_key("source", &own));
    world.canaries().add(canaries::api_key("target", &carols));
    let call = |verb: &str, arguments: &[&str]| {
        let mut command = world.command(verb);
        command.args(arguments).env("SOURCE_KEY", &own).env("TARGET_KEY", &carols);
        Ran::of(command.output().expect("it starts"))
    };
    call("plan", &[]).expect(0).says("application acme-meter-b to be created").says("1 device to move");
    call("run", &["--yes"]).expect(0).says("application acme-meter-b created").says("1 device moved");
    assert_eq!((there(&world, "acme-meter-b"), there(&world, "acme-meter-a")), (1, 0));
    call("rollback", &["--yes"]).expect(0).says("acme-meter-b removed");
    call("run", &["--yes"]).expect(0).says("1 device moved");
    // One that is there and somebody else's is not taken for one that is not.
    let mut theirs = proto::message("Application");
    path::set(&mut theirs, "ids.application_id", Value::String("acme-meter-a".into()));
    world.target.tts.store().put(Table::Applications, "acme-meter-a", theirs).expect("memory");
    let ran = Ran::of(world.command("plan").env("TARGET_KEY", &carols).output().expect("it starts"));
    ran.expect(3).says("application meter-a → acme-meter-a failed").says("= done: 1 device");
}
