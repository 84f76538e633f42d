//! Two embedded deployments in this process and the built binary in its own.

pub mod canaries;
pub mod search;
pub mod traffic;
pub mod v2;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use prost_reflect::DynamicMessage;
use stackferry::{
    config::OVERRIDES,
    map::path,
    rehearsal::{
        CallInfo, Served, Settings, Tts, load, serve,
        store::{Table, device_key},
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::canaries::{AtTheEnd, Canaries};

/// Where the fixture of the quickstart is.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/quickstart").join(name)
}

/// One deployment.
pub struct Side {
    pub tts: Arc<Tts>,
    pub served: Served,
}

impl Side {
    pub fn addr(&self) -> SocketAddr {
        self.served.addr
    }

    /// The stored record of a device.
    pub fn record(&self, table: Table, app: &str, device: &str) -> Option<DynamicMessage> {
        self.tts.store().get(table, &device_key(app, device)).cloned()
    }

    /// How many devices of an application a component holds.
    pub fn count(&self, table: Table, app: &str) -> usize {
        self.count_if(table, app, |_| true)
    }

    /// Those of them of which this is true.
    pub fn count_if(&self, table: Table, app: &str, is: impl Fn(&DynamicMessage) -> bool) -> usize {
        let prefix = format!("{app}.");
        self.tts.store().iter(table).filter(|(key, record)| key.starts_with(&prefix) && is(record)).count()
    }

    /// Changes a stored record.
    pub fn edit(&self, table: Table, app: &str, device: &str, change: impl FnOnce(&mut DynamicMessage)) {
        let key = device_key(app, device);
        let mut store = self.tts.store();
        let mut record = store.get(table, &key).cloned().expect("the record is there");
        change(&mut record);
        store.put(table, &key, record).expect("memory");
    }

    /// Removes a stored record.
    pub fn remove(&self, table: Table, app: &str, device: &str) {
        self.tts.store().remove(table, &device_key(app, device)).expect("memory");
    }

    /// Calls that change something, so far.
    pub fn writes(&self) -> Vec<String> {
        self.tts.calls().into_iter().filter(|c| c.is_write).map(|c| c.method).collect()
    }
}

/// A source, a target, a folder for configuration and journal.
pub struct World {
    // First, so that the folder is searched while it is there.
    searched: AtTheEnd,
    pub source: Side,
    pub target: Side,
    pub dir: TempDir,
    // Last, so that the servers are dropped while it runs.
    runtime: Runtime,
}

/// The application of the fixture.
pub const APP: &str = "fleet-lab";
/// Where its devices go inside one deployment.
pub const OTHER_APP: &str = "fleet-lab-2";

impl World {
    /// The fixture's fleet at the source, an empty target in another address block.
    pub fn fleet() -> Self {
        let world = Self::empty();
        load(
            &world.source.tts,
            Some(&fixture("tts-fleet-100.jsonl")),
            Some(&fixture("tts-fleet-application.json")),
        )
        .expect("the fixture loads");
        world
    }

    /// The fixture's fleet, but only the devices with these numbers.
    pub fn some(numbers: &[usize]) -> Self {
        Self::empty().with_devices(numbers)
    }

    /// This world, with the fixture's devices of these numbers and its application at the source.
    pub fn with_devices(self, numbers: &[usize]) -> Self {
        let world = self;
        let fleet = fs::read_to_string(fixture("tts-fleet-100.jsonl")).expect("the fixture");
        let lines: Vec<_> = fleet.lines().collect();
        let chosen: Vec<_> = numbers.iter().map(|n| lines[*n]).collect();
        let file = world.dir.path().join("some.jsonl");
        fs::write(&file, chosen.join("\n")).expect("a file");
        load(&world.source.tts, Some(&file), Some(&fixture("tts-fleet-application.json")))
            .expect("the fixture loads");
        for number in numbers {
            let is = world.source.record(Table::Is, APP, &dev(*number));
            assert!(is.is_some(), "the fixture's lines are in the order of its numbers");
        }
        fs::remove_file(file).expect("it is ours");
        world
    }

    /// Two empty deployments.
    pub fn empty() -> Self {
        Self::with(Settings::default(), Settings::default())
    }

    /// Two deployments with settings of their own; address blocks are set here.
    pub fn with(source: Settings, target: Settings) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let canaries = Canaries::here();
        let side = |name, settings: Settings, block: &str| {
            let settings = Settings { dev_addr_prefixes: vec![block.parse().expect("a prefix")], ..settings };
            canaries.add(canaries::api_key(name, &settings.api_key));
            let tts = Tts::new(settings).expect("memory");
            canaries.watch(name, &mut tts.store());
            let listen = SocketAddr::from(([127, 0, 0, 1], 0));
            let served = runtime.block_on(serve(Arc::clone(&tts), listen, None)).expect("loopback");
            Side { tts, served }
        };
        let source = side("source", source, "26000000/7");
        let target = side("target", target, "01000000/8");
        let dir = tempfile::tempdir().expect("a folder");
        let searched = AtTheEnd { canaries, folder: dir.path().to_owned() };
        Self { searched, source, target, dir, runtime }
    }

    /// What is searched for in everything that the binary prints and writes.
    pub fn canaries(&self) -> &Arc<Canaries> {
        &self.searched.canaries
    }

    /// One deployment, reached by two addresses; the fixture's devices with these numbers are in its application.
    pub fn one_deployment(numbers: &[usize]) -> Self {
        let mut world = Self::some(numbers);
        let tts = Arc::clone(&world.source.tts);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let served = world.runtime.block_on(serve(Arc::clone(&tts), listen, None)).expect("loopback");
        world.target = Side { tts, served };
        world
    }

    /// Where more servers can be started.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Writes the configuration; `more` is appended to it.
    pub fn config(&self, more: &str) -> PathBuf {
        self.config_to(APP, more)
    }

    /// As [`World::config`], with another application on the target.
    pub fn config_to(&self, target: &str, more: &str) -> PathBuf {
        // What is around the devices has tests of its own (`tests/it/around`).
        self.config_whole(target, &format!("copy = [\"formatters\"]\n{more}"))
    }

    /// As [`World::config_to`], with everything around the devices.
    pub fn config_whole(&self, target: &str, more: &str) -> PathBuf {
        let text = format!(
            r#"
[source.tts]
address = "{}"
insecure = true
api-key = {{ env = "SOURCE_KEY" }}

[target.tts]
address = "{}"
insecure = true
api-key = {{ env = "TARGET_KEY" }}
owner = {{ user = "admin" }}

[journal]
path = "test.journal"

[[application]]
source = "fleet-lab"
target = "{target}"

{more}
"#,
            self.source.addr(),
            self.target.addr()
        );
        let path = self.dir.path().join("move.toml");
        fs::write(&path, text).expect("a file");
        path
    }

    /// The binary, ready to be started with more arguments.
    pub fn command(&self, verb: &str) -> Command {
        self.command_for(verb, &self.dir.path().join("move.toml"))
    }

    /// As [`World::command`], with another configuration.
    pub fn command_for(&self, verb: &str, config: &Path) -> Command {
        let mut command = binary(verb, config);
        command
            .env("SOURCE_KEY", &self.source.tts.settings().api_key)
            .env("TARGET_KEY", &self.target.tts.settings().api_key);
        command
    }

    /// `run --yes`, to its end.
    pub fn run(&self) -> Ran {
        Ran::of(self.command("run").arg("--yes").output().expect("it starts"))
    }

    /// `run --yes`, in the background.
    pub fn start(&self) -> Child {
        self.command("run")
            .arg("--yes")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
    }

    /// Another command, to its end.
    pub fn call(&self, verb: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.command(verb).args(arguments).output().expect("it starts"))
    }
}

/// The binary with a verb and its configuration.
fn binary(verb: &str, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackferry"));
    command.arg(verb).arg(config).env("NO_COLOR", "1").stdin(Stdio::null());
    // What whoever runs the tests has in the environment.
    for over in OVERRIDES {
        command.env_remove(over.variable);
    }
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Searches what was printed for every secret that the servers of this test have held.
    #[track_caller]
    pub fn of(output: Output) -> Self {
        canaries::hear("stdout", &output.stdout);
        canaries::hear("stderr", &output.stderr);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Fails with everything that was printed unless the exit code is this.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Everything that was printed.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.out, self.err)
    }

    /// Fails with everything that was printed unless `text` is in it.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let found = self.out.contains(text) || self.err.contains(text);
        assert!(found, "`{text}` is not said.\nstdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// The ID of the fixture's device with this number; its kind is the number modulo 10 (`docs/quickstart.md`).
pub fn dev(number: usize) -> String {
    format!("dev-{number:05}")
}

/// What every run over the fixture allows.
pub const LOSSES: &str = r#"
[transform]
allow-loss = ["picture", "queued-downlinks", "muted-source"]
"#;

/// True for a call about the marker of a run, which is a device to the Identity Server only.
pub fn about_marker(call: &CallInfo) -> bool {
    call.entity.ends_with(".stackferry-lock")
}

/// True when the record's downlinks are switched off.
pub fn is_muted(ns: &DynamicMessage) -> bool {
    path::wrapped_flag(ns, "mac_settings.schedule_downlinks") == Some(false)
}
