//! Two runs never work on one application: markers in the applications, whoever starts when.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage as _, Value};
use stackferry::{
    map::path,
    proto,
    rehearsal::{
        Fault,
        store::{Table, device_key},
    },
};

use crate::world::{APP, Ran, Side, World, dev};

const DEVICES: [usize; 3] = [1, 4, 2];
const CONFIG: &str =
    "[transform]\nsession = \"keep\"\n[clear]\nmode = \"keys\"\n[limits]\nlock-renewal = \"1s\"\n";
const MARKER: &str = "stackferry-lock";
const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];

/// The command with another configuration: the same but for what `change` makes of it, and a journal of its own.
fn another(world: &World, name: &str, change: impl Fn(String) -> String) -> Command {
    let dir = world.dir.path();
    let text = fs::read_to_string(dir.join("move.toml")).expect("written");
    let text = change(text.replace("test.journal", &format!("{name}.journal")));
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, text).expect("a file");
    let mut command = world.command_for("run", &file);
    command.arg("--yes").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn other(world: &World) -> Command {
    another(world, "other", |text| text)
}

fn finish(child: Child) -> Ran {
    Ran::of(child.wait_with_output().expect("it ends"))
}

fn ran(mut command: Command) -> Ran {
    finish(command.spawn().expect("it starts"))
}

fn marker(side: &Side) -> Option<DynamicMessage> {
    side.record(Table::Is, APP, MARKER)
}

#[track_caller]
fn no_markers(world: &World) {
    assert!(marker(&world.source).is_none(), "a marker is left at the source");
    assert!(marker(&world.target).is_none(), "a marker is left on the target");
}

#[track_caller]
fn all_moved(world: &World) {
    for table in [Table::Is, Table::As, Table::Ns] {
        assert_eq!(world.target.count(table, APP), DEVICES.len(), "{table:?}");
    }
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if there() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited half a minute for {what}");
}

/// Mutes take so long that whoever has the lock has it for a while.
fn slow_mutes(world: &World, time: Duration) {
    world
        .source
        .tts
        .on_call(move |call| call.method.ends_with("NsEndDeviceRegistry/Set").then_some(Fault::Delay(time)));
}

/// Every call takes another time, other ones in each round; mutes take long.
fn uneven(world: &World, round: u64) {
    for (side, salt) in [(&world.source, 7), (&world.target, 13)] {
        side.tts.on_call(move |call| {
            let mute = salt == 7 && call.method.ends_with("NsEndDeviceRegistry/Set");
            let time = if mute { 700 } else { (call.n * salt + round * 5) % 11 };
            Some(Fault::Delay(Duration::from_millis(time)))
        });
    }
}

#[test]
fn of_two_journals_on_one_pair_exactly_one_works() {
    for round in 0..4_u64 {
        let world = World::some(&DEVICES);
        world.config(CONFIG);
        uneven(&world, round);
        let mut second = other(&world);
        let first = world.start();
        let second = second.spawn().expect("it starts");
        let (first, second) = (finish(first), finish(second));
        let (winner, loser, journal) = match first.code {
            Some(0) => (first, second, "other.journal"),
            _ => (second, first, "test.journal"),
        };
        let winner = winner.expect(0).says("3 devices moved");
        let loser = loser.expect(6).says("in the hands of another run").says("--take-over");
        assert!(!loser.out.contains("moved\n"), "round {round}: {}\n{}", loser.out, winner.out);
        let begun = stackferry::journal::View::open(&world.dir.path().join(journal)).expect("it was made");
        assert_eq!(begun.devices().expect("readable"), [], "round {round}: the loser began nothing");
        all_moved(&world);
        no_markers(&world);
    }
}

#[test]
fn two_targets_cannot_have_one_source_at_once() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    slow_mutes(&world, Duration::from_secs(2));
    let first = world.start();
    wait_for("the marker", || marker(&world.source).is_some());
    let elsewhere =
        another(&world, "other", |text| text.replace("target = \"fleet-lab\"", "target = \"fleet-two\""));
    ran(elsewhere).expect(6).says("application fleet-lab of the source is in the hands of another run");
    finish(first).expect(0);
    assert_eq!(world.target.count(Table::Is, "fleet-two"), 0);
    all_moved(&world);
    no_markers(&world);
}

/// Kills a run right before a call at the source is applied.
fn killed_before(world: &World, method: &'static str, entity: &'static str) {
    let (pid, dead) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (known, once) = (Arc::clone(&pid), Arc::clone(&dead));
    world.source.tts.on_call(move |call| {
        let this = call.method.ends_with(method) && call.entity.ends_with(entity);
        if !this || once.swap(true, Ordering::SeqCst) {
            return None;
        }
        while known.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = known.load(Ordering::SeqCst).to_string();
        Command::new("kill").args(["-9", &pid]).status().expect("kill");
        Some(Fault::CutBefore)
    });
    let child = world.start();
    pid.store(child.id(), Ordering::SeqCst);
    assert_eq!(finish(child).code, None, "it was killed");
}

#[test]
fn a_dead_run_is_taken_over_only_when_asked_and_after_a_watch() {
    let world = World::some(&DEVICES);
    // One at a time: nothing of the dead run is still on its way.
    world.config(&format!("{}[rollout]\nin-flight = 1\n", CONFIG.replace("1s", "2s")));
    killed_before(&world, "NsEndDeviceRegistry/Set", "");
    assert!(marker(&world.source).is_some() && marker(&world.target).is_some(), "SIGKILL leaves the markers");

    let before = (world.source.writes().len(), world.target.writes().len());
    let refused = ran(other(&world)).expect(6).says("in the hands of another run").says("--take-over");
    let journal =
        stackferry::journal::View::open(&world.dir.path().join("test.journal")).expect("there").run_id();
    refused.says(&journal).says("stackferry 0.");
    // The create that was refused is the only thing it tried.
    assert_eq!(world.source.writes().len(), before.0 + 1);
    assert_eq!(world.target.writes().len(), before.1);

    let mut taker = other(&world);
    taker.arg("--take-over");
    ran(taker).expect(0).says("watching the marker").says("3 devices moved");
    all_moved(&world);
    no_markers(&world);

    // The journal of the dead run knows of devices that are another's now: nothing of them is touched.
    let ran = world.run();
    assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
    all_moved(&world);
    no_markers(&world);
}

#[test]
fn of_two_that_take_over_at_once_exactly_one_works() {
    for round in 0..2_u64 {
        let world = World::some(&DEVICES);
        world.config(&format!("{CONFIG}[rollout]\nin-flight = 1\n"));
        killed_before(&world, "NsEndDeviceRegistry/Set", "");
        uneven(&world, round);
        let takers = ["one", "two"].map(|name| {
            let mut taker = another(&world, name, |text| text);
            taker.arg("--take-over").spawn().expect("it starts")
        });
        let mut ended = takers.map(finish);
        ended.sort_by_key(|ran| ran.code);
        let [winner, loser] = ended;
        winner.expect(0).says("3 devices moved");
        assert!(!loser.expect(6).out.contains("moved\n"), "round {round}");
        all_moved(&world);
        no_markers(&world);
    }
}

#[test]
fn a_copy_of_a_journal_is_another_journal() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    slow_mutes(&world, Duration::from_secs(2));
    let first = world.start();
    wait_for("the marker", || marker(&world.target).is_some());
    let dir = world.dir.path();
    for file in fs::read_dir(dir).expect("ours").map(|file| file.expect("ours").path()) {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if let Some(rest) = name.strip_prefix("test.journal") {
            fs::copy(&file, dir.join(format!("other.journal{rest}"))).expect("a copy");
        }
    }
    ran(other(&world)).expect(6).says("cannot be taken over").says("is at work");
    finish(first).expect(0).says("3 devices moved");
    all_moved(&world);
    no_markers(&world);
}

#[test]
fn the_same_journal_goes_on_at_once() {
    let world = World::some(&DEVICES);
    // Were the marker watched, this would take a day.
    world.config(&CONFIG.replace("1s", "8h"));
    killed_before(&world, "NsEndDeviceRegistry/Set", "");
    world.run().expect(0).says("3 devices moved");
    no_markers(&world);
}

#[test]
fn a_marker_that_was_left_at_the_very_end_goes_with_the_next_run() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    killed_before(&world, "v3.EndDeviceRegistry/Delete", MARKER);
    assert!(marker(&world.source).is_some() && marker(&world.target).is_none(), "the target's goes first");
    let before = world.source.writes().len();
    world.run().expect(0).says("3 devices done before");
    let writes = world.source.writes();
    let delete = "/ttn.lorawan.v3.EndDeviceRegistry/Delete";
    assert_eq!(writes[before..], [delete], "it only tidies up");
    no_markers(&world);
}

#[test]
fn a_run_that_lives_is_not_taken_over() {
    let world = World::some(&DEVICES);
    world.config(&CONFIG.replace("1s", "2s"));
    slow_mutes(&world, Duration::from_secs(9));
    let first = world.start();
    wait_for("the marker", || marker(&world.source).is_some());
    let mut taker = other(&world);
    taker.arg("--take-over");
    ran(taker).expect(6).says("cannot be taken over").says("is at work");
    finish(first).expect(0).says("3 devices moved");
    all_moved(&world);
    no_markers(&world);
}

#[test]
fn a_run_that_lost_its_marker_stops() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    slow_mutes(&world, Duration::from_secs(20));
    let first = world.start();
    wait_for("the marker", || marker(&world.target).is_some());
    world.target.edit(Table::Is, APP, MARKER, |marker| {
        say(marker, &[("run", "somebody"), ("journal", "another"), ("holder", "eve@elsewhere")]);
    });
    finish(first).expect(6).says("not in the hands of this run any more").says("eve@elsewhere");
    assert!(marker(&world.target).is_some(), "the marker is another's and stays");
    assert!(marker(&world.source).is_none(), "its own goes");
    assert_eq!(world.target.count(Table::Js, APP), 0, "nothing more was done");
}

#[test]
fn the_marker_is_the_first_write_and_the_last() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    world.run().expect(0);
    let of = |side: &Side| -> Vec<_> {
        let writes = side.tts.calls().into_iter().filter(|c| c.is_write);
        writes.map(|c| (c.method.rsplit('/').next().unwrap_or_default().to_owned(), c.entity)).collect()
    };
    let marked = |verb: &str| (verb.to_owned(), format!("end device:{APP}.{MARKER}"));
    let (source, target) = (of(&world.source), of(&world.target));
    assert_eq!((source.first(), source.last()), (Some(&marked("Create")), Some(&marked("Delete"))));
    assert_eq!(target[0].1, format!("application:{APP}"), "the application must be there first");
    assert_eq!((target.get(1), target.last()), (Some(&marked("Create")), Some(&marked("Delete"))));
    no_markers(&world);
    world.run().expect(0);
    assert_eq!((of(&world.source), of(&world.target)), (source, target), "S6");
}

#[test]
fn a_run_that_only_waits_writes_nothing() {
    let world = World::some(&[1]);
    world.config("[transform]\nsession = \"drop\"\n[clear]\nmode = \"keys\"\n");
    world.run().expect(0).says("1 device waiting");
    let before = (world.source.writes(), world.target.writes());
    world.run().expect(0).says("1 device waiting");
    assert_eq!((world.source.writes(), world.target.writes()), before);
}

#[test]
fn ctrl_c_and_failures_leave_no_marker() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    slow_mutes(&world, Duration::from_secs(1));
    let child = world.start();
    wait_for("the marker", || marker(&world.target).is_some());
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    finish(child).expect(130);
    no_markers(&world);

    let world = World::some(&DEVICES);
    world.config(CONFIG);
    world.target.tts.on_call(|call| {
        let this = call.method.ends_with("NsEndDeviceRegistry/Set");
        this.then_some(Fault::Status(tonic::Code::InvalidArgument))
    });
    world.run().expect(3);
    no_markers(&world);
}

/// Writes what a marker says of its run.
fn say(marker: &mut DynamicMessage, what: &[(&str, &str)]) {
    let field = marker.descriptor().get_field_by_name("attributes").expect("a field");
    let Value::Map(map) = marker.get_field_mut(&field) else { panic!("a map") };
    for (key, value) in what {
        map.insert(MapKey::String(format!("stackferry-{key}")), Value::String((*value).to_owned()));
    }
}

/// A marker as another run would leave it.
fn strange_marker(app: &str) -> DynamicMessage {
    let mut marker = proto::message("EndDevice");
    path::set(&mut marker, "ids.device_id", Value::String(MARKER.to_owned()));
    path::set(&mut marker, "ids.application_ids.application_id", Value::String(app.to_owned()));
    say(&mut marker, &[("journal", "another"), ("run", "x"), ("place", "y"), ("renewal-ms", "1000")]);
    marker
}

/// The marker is gone with its run; the mute at the source stays, and keeps a second journal from the same devices.
#[test]
fn what_one_journal_has_muted_another_with_another_target_leaves_alone() {
    let (world, elsewhere) = (World::some(&DEVICES), World::empty());
    let chosen = format!("devices = {{ ids = [\"{}\", \"{}\"] }}\n", dev(1), dev(4));
    let held = CONFIG.replace("[limits]", "hold = true\n[limits]");
    world.config(&format!("{chosen}{held}"));
    world.run().expect(0).says("the clear is on hold");
    no_markers(&world);
    let records = |side: &Side| [1, 4].map(|n| TABLES.map(|t| side.record(t, APP, &dev(n))));
    let (before, there) = (records(&world.source), world.target.addr().to_string());
    let second = || {
        let mut command = another(&world, "second", |text| {
            let text = text.replace(&chosen, "").replace("hold = true", "");
            text.replace(&there, &elsewhere.target.addr().to_string())
        });
        command.env("TARGET_KEY", &elsewhere.target.tts.settings().api_key);
        ran(command)
    };
    second().expect(3).says("1 device moved").says("2 devices not moved").says("muted-source: 2 devices");
    assert!(records(&world.source) == before, "they are as the first journal left them");
    assert!(records(&elsewhere.target).as_flattened().iter().all(Option::is_none), "live twice");

    // The first goes on: its own mute is no stop.
    world.config(&format!("{chosen}{CONFIG}"));
    world.run().expect(0).says("2 devices moved");
    // What it brings back is free again.
    world.call("rollback", &["--yes"]).expect(0).says("2 devices brought back");
    second().expect(0).says("2 devices moved");
    assert_eq!(TABLES.map(|t| world.target.count(t, APP)), [0; 4], "live twice");
}

#[test]
fn a_marker_is_no_device() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    let put = |side: &Side| {
        side.tts.store().put(Table::Is, &device_key(APP, MARKER), strange_marker(APP)).expect("memory")
    };
    put(&world.source);
    world.call("plan", &[]).expect(0).says("3 devices to move");
    world.call("rehearse", &[]).expect(0).says("3 devices moved");
    world.source.remove(Table::Is, APP, MARKER);
    world.run().expect(0);
    put(&world.target);
    world.call("verify", &[]).expect(0).says("3 devices on the target as written");
    world.call("status", &[]).expect(0).says("3 done");
    world.run().expect(0).says("3 devices done before");
    assert!(marker(&world.target).is_some(), "it is not ours");
}

#[test]
fn a_device_of_that_name_is_not_overwritten() {
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    let mut own = world.source.record(Table::Is, APP, &dev(1)).expect("there");
    path::set(&mut own, "ids.device_id", Value::String(MARKER.to_owned()));
    path::set(&mut own, "ids.dev_eui", Value::Bytes(vec![9; 8].into()));
    world.source.tts.store().put(Table::Is, &device_key(APP, MARKER), own.clone()).expect("memory");
    world.run().expect(6).says("that is no marker of stackferry");
    assert_eq!(marker(&world.source), Some(own));
    assert_eq!(world.target.count(Table::Is, APP), 0);
}
