//! The process: what it says when it is wrong itself, and what others can read of its memory.

use std::{
    env, fs,
    os::unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use prost_reflect::Value;
use stackferry::{
    map::path,
    proto,
    rehearsal::{
        Fault,
        store::{Table, device_key},
    },
};

use super::key_files::as_nobody;
use crate::world::{
    APP, LOSSES, World, dev,
    search::{Search, Secret},
};

const CANARY: &[u8] = b"a canary in a panic";

/// A panic whose text holds a key, as a message makes it that is given a value of another type.
#[test]
#[ignore = "ends in a panic: started by the next test"]
fn a_panic() {
    if env::var_os("WITH_HOOK").is_some() {
        stackferry::report::panic::install();
    }
    proto::message("KeyEnvelope").set_field_by_name("kek_label", Value::Bytes(CANARY.into()));
}

#[test]
fn a_panic_shows_no_value() {
    let panic = |hook: bool| {
        let mut command = Command::new(env::current_exe().expect("running"));
        command.args([
            "--ignored",
            "--exact",
            "secrets::process::a_panic",
            "--nocapture",
            "--test-threads=1",
        ]);
        command.env("RUST_BACKTRACE", "full").env_remove("WITH_HOOK");
        if hook {
            command.env("WITH_HOOK", "1");
        }
        let output = command.output().expect("it starts");
        assert!(!output.status.success());
        [output.stdout, output.stderr].concat()
    };
    let search = Search::new(&[Secret::new("canary", CANARY)]);
    assert!(!search.find(&panic(false)).is_empty(), "without the hook it is shown: this test can fail");
    let said = panic(true);
    assert!(search.find(&said).is_empty(), "{}", String::from_utf8_lossy(&said));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("this is a fault of stackferry at ") && said.contains("report it"), "{said}");
}

/// A run that waits in the middle of its work until it is killed.
struct Paused(Child);

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn paused(world: &World, command: &mut Command, after: usize) -> Paused {
    world.target.tts.on_call(move |call| {
        (call.method.ends_with("NsEndDeviceRegistry/Set") && call.n > 1)
            .then_some(Fault::Delay(Duration::from_mins(5)))
    });
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let paused = Paused(child);
    while world.target.count(Table::Js, APP) < after {
        std::thread::sleep(Duration::from_millis(5));
    }
    paused
}

#[test]
fn a_process_that_holds_keys_leaves_no_core_dump() {
    let world = World::some(&[1]);
    world.config("[transform]\nsession = \"keep\"\n");
    let run = world.command("run");
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    shell.arg("--yes").envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(world.dir.path());
    let mut paused = paused(&world, &mut shell, 1);
    let limits = fs::read_to_string(format!("/proc/{}/limits", paused.0.id())).expect("Linux");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let aborted = Command::new("kill").args(["-ABRT", &paused.0.id().to_string()]).status();
    assert!(aborted.expect("kill").success());
    let status = paused.0.wait().expect("it ends");
    assert!(!status.core_dumped() && status.signal() == Some(6), "{status}");
}

#[test]
fn the_memory_of_the_process_is_closed_to_its_own_user() {
    let world = World::some(&[1]);
    world.config("[transform]\nsession = \"keep\"\n");
    let mut run = world.command("run");
    run.arg("--yes");
    let root = rustix::process::geteuid().is_root();
    if root && !as_nobody(&world, &mut run) {
        return;
    }
    let paused = paused(&world, &mut run, 1);
    // `proc(5)`: what belongs to a process that cannot be dumped belongs to root.
    let owner = fs::metadata(format!("/proc/{}/environ", paused.0.id())).expect("Linux").uid();
    assert_eq!(owner, 0);
}

/// Every block of memory is overwritten when it is given back (`src/main.rs`). Root reads what is left of the keys of
/// devices that are done while the run goes on with another.
#[test]
fn the_keys_of_devices_that_are_done_are_wiped() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: the memory of the process is not tested");
        return;
    }
    let world = World::some(&(1..=40).collect::<Vec<_>>());
    world.config(&format!("{LOSSES}session = \"keep\"\n[rollout]\nin-flight = 1\n[clear]\nmode = \"keys\"\nwhen = \"verified\"\n"));
    let keys = |n: usize| {
        let js = world.source.record(Table::Js, APP, &dev(n));
        let key = js.map(|js| path::bytes(&js, "root_keys.app_key.key")).unwrap_or_default();
        (key.len() == 16).then(|| Secret::new(dev(n), key))
    };
    let secrets: Vec<_> = (1..=40).filter_map(keys).collect();
    world.target.tts.on_call(|call| {
        let last = call.entity.ends_with(&dev(40)) && call.method.ends_with("EndDeviceRegistry/Create");
        last.then_some(Fault::Delay(Duration::from_mins(5)))
    });
    let child = world.command("run").arg("--yes").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let paused = Paused(child.expect("it starts"));
    let left = || secrets.iter().filter(|s| world.source.record(Table::Js, APP, &s.name).is_some()).count();
    while left() > 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let done: Vec<_> = secrets
        .iter()
        .filter(|s| world.source.tts.store().get(Table::Js, &device_key(APP, &s.name)).is_none())
        .cloned()
        .collect();
    let memory = memory(paused.0.id());
    // What was read last is still in the buffers of the connections.
    let earlier = &done[..done.len() - 6];
    let found = Search::new(earlier).find(&memory);
    println!(
        "memory: {} MB searched for the keys of {} devices that are done",
        memory.len() >> 20,
        earlier.len()
    );
    assert!(earlier.len() > 12 && found.is_empty(), "{found:?} of {}", earlier.len());
    let in_use = Secret::new("API key", world.target.tts.settings().api_key.as_str());
    assert!(!Search::new(&[in_use]).find(&memory).is_empty(), "the search sees what is there");
}

/// All memory of a process that can be written.
fn memory(pid: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("Linux");
    let file = fs::File::open(format!("/proc/{pid}/mem")).expect("we are root");
    let mut all = Vec::new();
    for line in
        maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|p| p.starts_with("rw")))
    {
        let (from, to) = line.split_whitespace().next().and_then(|r| r.split_once('-')).expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).expect("64 bits")];
        if file.read_exact_at(&mut bytes, from).is_ok() {
            all.extend(bytes);
        }
    }
    all
}
