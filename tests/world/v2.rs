//! An embedded V2 and an embedded The Things Stack in this process, and the built binary in its own.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::{path, ttn_v2::V2Device},
    proto,
    rehearsal::{
        AccessKey, ServedTtnV2, Settings, TtnV2, Tts, V2Application, V2Settings,
        air::Network,
        auditor::{Auditor, Side as AuditedSide, Terms},
        device::SimDevice,
        serve, serve_ttn_v2,
        store::Table,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    Ran, Side, binary,
    canaries::{AtTheEnd, Canaries, api_key},
    fixture,
    search::Secret,
    traffic::{Field, lock, on_air},
};

/// The application of the listing.
pub const V2_APP: &str = "fleet-v2";
/// An access key with both rights.
pub const FULL: &str = "ttn-account-v2.CANARYfullCANARYfullCANARYfullCANARYfull1";
/// One that may not read payload functions.
pub const DEVICES_ONLY: &str = "ttn-account-v2.CANARYdevicesCANARYdevicesCANARYdevices1";

/// One of each kind of the listing: OTAA with a session, ABP with 32 bits and with 16 and without a counter check, OTAA without a session.
pub const KINDS: [&str; 4] = ["node-001", "abp-003", "abp_16_004", "node-000"];

/// V2 as the source, The Things Stack as the target, and a folder for configuration and journal.
pub struct V2World {
    // First, so that the folder is searched while it is there.
    _searched: AtTheEnd,
    pub v2: Arc<TtnV2>,
    pub served: ServedTtnV2,
    pub target: Side,
    pub dir: TempDir,
    // Last, so that the servers are dropped while it runs.
    _runtime: Runtime,
}

impl V2World {
    /// The devices of the real listing.
    pub fn fleet() -> Self {
        let world = Self::empty();
        let listing = fs::read(fixture("ttn-v2-fleet.json")).expect("the fixture");
        world.v2.load_devices(&listing, V2_APP).expect("a listing");
        let application = fs::read(fixture("ttn-v2-application.json")).expect("the fixture");
        world.v2.load_application(&application, V2_APP).expect("an application");
        world
    }

    /// Of the real listing the devices with these IDs.
    pub fn some(ids: &[&str]) -> Self {
        let world = Self::fleet();
        let others: Vec<_> = world.ids().into_iter().filter(|id| !ids.contains(&id.as_str())).collect();
        others.iter().for_each(|id| world.remove(id));
        assert_eq!(world.ids().len(), ids.len(), "the listing has not all of {ids:?}");
        world
    }

    /// So many devices without a session, all alike.
    pub fn plain(count: usize) -> Self {
        Self::plain_with(V2Settings::default(), count)
    }

    /// As [`V2World::plain`], with settings of V2.
    pub fn plain_with(settings: V2Settings, count: usize) -> Self {
        let one = Self::some(&["node-000"]).device("node-000").expect("it is there").message().clone();
        let world = Self::with(settings);
        let devices = (0..count).map(|n| {
            let mut device = one.clone();
            let id = format!("plain-{n:04}");
            path::set(&mut device, "dev_id", Value::String(id.clone()));
            path::set(&mut device, "lorawan_device.dev_id", Value::String(id));
            let mut eui = path::bytes(&device, "lorawan_device.dev_eui");
            eui[5..].copy_from_slice(&u32::try_from(n).expect("few").to_be_bytes()[1..]);
            path::set(&mut device, "lorawan_device.dev_eui", Value::Bytes(eui.into()));
            device
        });
        world.v2.take_devices(devices.collect(), V2_APP).expect("memory");
        world
    }

    pub fn empty() -> Self {
        Self::with(V2Settings::default())
    }

    /// With settings of V2; the application and its keys are set here.
    pub fn with(settings: V2Settings) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let canaries = Canaries::here();
        let keys = [(FULL, &["devices", "settings"][..]), (DEVICES_ONLY, &["devices"])];
        for (key, _) in keys {
            canaries
                .add(vec![Secret::new("access key", key), Secret::new("access key's secret", &key[15..])]);
        }
        let keys = keys.map(|(key, rights)| AccessKey::new(key, rights));
        let settings =
            V2Settings { applications: vec![V2Application::new(V2_APP, keys.to_vec())], ..settings };
        let v2 = TtnV2::new(settings).expect("memory");
        canaries.watch("source", &mut v2.store());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let served = runtime.block_on(serve_ttn_v2(Arc::clone(&v2), listen, listen, true)).expect("loopback");
        let settings = Settings {
            dev_addr_prefixes: vec!["26000000/7".parse().expect("a prefix")],
            ..Settings::default()
        };
        canaries.add(api_key("target", &settings.api_key));
        let tts = Tts::new(settings).expect("memory");
        canaries.watch("target", &mut tts.store());
        let target = runtime.block_on(serve(Arc::clone(&tts), listen, None)).expect("loopback");
        let dir = tempfile::tempdir().expect("a folder");
        let searched = AtTheEnd { canaries, folder: dir.path().to_owned() };
        Self { _searched: searched, v2, served, target: Side { tts, served: target }, dir, _runtime: runtime }
    }

    /// Where V2 listens.
    pub fn served(&self) -> &ServedTtnV2 {
        &self.served
    }

    /// IDs of all devices at V2, in order.
    pub fn ids(&self) -> Vec<String> {
        let store = self.v2.store();
        let prefix = format!("{V2_APP}.");
        store
            .iter(Table::V2Devices)
            .filter_map(|(key, _)| key.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect()
    }

    /// What GetDevice would answer, without a call.
    pub fn device(&self, id: &str) -> Option<V2Device> {
        self.rpc("GetDevice", self.identifier(id)).ok().map(V2Device::new)
    }

    /// Removes a device at V2, as its Console would.
    pub fn remove(&self, id: &str) {
        self.rpc("DeleteDevice", self.identifier(id)).expect("it was there");
    }

    /// Changes a device at V2, as its Console would.
    pub fn edit(&self, id: &str, change: impl FnOnce(&mut DynamicMessage)) {
        let mut device = self.device(id).expect("it is there").message().clone();
        change(&mut device);
        self.rpc("SetDevice", device).expect("V2 takes it");
    }

    /// A call of somebody else.
    fn rpc(&self, method: &str, request: DynamicMessage) -> Result<DynamicMessage, tonic::Status> {
        let path = format!("/handler.ApplicationManager/{method}");
        self.v2.call(&path, request, &[("key", FULL)]).map(|reply| reply.message)
    }

    fn identifier(&self, id: &str) -> DynamicMessage {
        let mut message = proto::message("handler.DeviceIdentifier");
        path::set(&mut message, "app_id", Value::String(V2_APP.to_owned()));
        path::set(&mut message, "dev_id", Value::String(id.to_owned()));
        message
    }

    /// Calls to V2's handler so far.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.v2.calls().into_iter().map(|c| c.rpc().to_owned());
        calls.filter(|rpc| rpc.starts_with("ApplicationManager/")).collect()
    }

    /// The calls that change something, at either side.
    pub fn writes(&self) -> Vec<String> {
        let of_v2 = self.v2.calls().into_iter().filter(|c| c.is_write).map(|c| c.method);
        of_v2.filter(|method| !method.starts_with("/discovery")).chain(self.target.writes()).collect()
    }

    /// Writes the configuration; `more` is appended to it.
    pub fn config(&self, more: &str) -> PathBuf {
        self.config_with("", more)
    }

    /// As [`V2World::config`], with more keys of the source.
    pub fn config_with(&self, source: &str, more: &str) -> PathBuf {
        let ca = self.dir.path().join("discovery.pem");
        let certificate = self.served().discovery_certificate.as_ref().expect("it speaks TLS");
        fs::write(&ca, certificate).expect("a file");
        let text = format!(
            r#"
[source.ttn-v2]
access-key = {{ env = "V2_KEY" }}
discovery-server = "localhost:{}"
ca = "discovery.pem"
{source}

[target.tts]
address = "{}"
insecure = true
api-key = {{ env = "TARGET_KEY" }}
owner = {{ user = "admin" }}

[journal]
path = "test.journal"

[limits]
source = "100000/s"

{more}
"#,
            self.served().discovery.port(),
            self.target.addr()
        );
        let path = self.dir.path().join("move.toml");
        fs::write(&path, text).expect("a file");
        path
    }

    /// The binary, ready to be started with more arguments.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = binary(verb, &self.dir.path().join("move.toml"));
        command.env("V2_KEY", FULL).env("TARGET_KEY", &self.target.tts.settings().api_key);
        command
    }

    /// `run --yes`, to its end.
    pub fn run(&self) -> Ran {
        self.call("run", &["--yes"])
    }

    /// A command, to its end.
    pub fn call(&self, verb: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.command(verb).args(arguments).output().expect("it starts"))
    }

    /// The target's record of a device.
    pub fn on_target(&self, table: Table, device: &str) -> Option<DynamicMessage> {
        self.target.record(table, V2_APP, device)
    }

    /// The names of the records that the target holds.
    pub fn target_keys(&self, table: Table) -> Vec<String> {
        self.target.tts.store().iter(table).map(|(key, _)| key.to_owned()).collect()
    }
}

/// The application, and what V2 does not keep.
pub const PLAIN: &str = r#"
[[application]]
source = "fleet-v2"

[transform]
frequency-plan = { default = "EU_863_870_TTN" }
"#;

/// A V2 world whose devices are on the air: something happens before every call of either side, and an auditor watches both.
pub struct WatchedV2 {
    pub world: V2World,
    pub field: Arc<Mutex<Field>>,
    pub auditor: Auditor,
}

impl WatchedV2 {
    pub fn new(world: V2World, seed: u64) -> Self {
        let auditor = Auditor::new(Terms::default());
        auditor.attach(AuditedSide::Source, &mut world.v2.store(), Some(V2_APP));
        auditor.attach(AuditedSide::Target, &mut world.target.tts.store(), Some(V2_APP));
        let v2: Arc<dyn Network> = Arc::<TtnV2>::clone(&world.v2);
        let networks = vec![("source", v2), ("target", on_air(&world.target.tts))];
        let simulated = |id: String| {
            let device = world.device(&id).expect("it is there");
            SimDevice::from_v2(device.message()).expect("it can be simulated")
        };
        let devices = world.ids().into_iter().map(simulated);
        let field = Arc::new(Mutex::new(Field::with(networks, devices.collect(), seed)));
        // V2 has no compare-and-set: what happens between a reading and the write that follows it is lost, whoever does it
        // (docs/servers.md, V2 SetDevice). So nothing happens there, as in most of real time.
        let window = Arc::new(AtomicBool::new(false));
        let (of_v2, opens) = (Arc::clone(&field), Arc::clone(&window));
        world.v2.on_call(move |call| {
            if call.rpc() != "ApplicationManager/SetDevice" {
                lock(&of_v2).stir();
                opens.store(call.rpc() == "ApplicationManager/GetDevice", Ordering::SeqCst);
            }
            None
        });
        let closes = Arc::clone(&window);
        world.v2.on_replied(move |call| {
            if call.rpc() == "ApplicationManager/SetDevice" {
                closes.store(false, Ordering::SeqCst);
            }
        });
        let (of_target, in_it) = (Arc::clone(&field), Arc::clone(&window));
        world.target.tts.on_call(move |_| {
            if !in_it.load(Ordering::SeqCst) {
                lock(&of_target).stir();
            }
            None
        });
        Self { world, field, auditor }
    }

    /// Another auditor, for another move: V2 tells no nonces, so that those of a move that was rolled back are forgotten.
    pub fn audit_anew(&mut self) {
        self.auditor = Auditor::new(Terms::default());
        self.auditor.attach(AuditedSide::Source, &mut self.world.v2.store(), Some(V2_APP));
        self.auditor.attach(AuditedSide::Target, &mut self.world.target.tts.store(), Some(V2_APP));
    }

    /// Some traffic while no program runs.
    pub fn stir(&self, times: usize) {
        let mut field = lock(&self.field);
        (0..times).for_each(|_| field.stir());
    }

    /// Calls a command until nothing waits any more, with traffic in between. Returns what was said last.
    pub fn until_done(&self, verb: &str) -> Ran {
        let mut last = String::new();
        for _ in 0..16 {
            let ran = self.world.call(verb, &["--yes"]);
            let waits = ran.out.contains("waiting") || ran.out.contains("cannot come back now");
            if ran.code == Some(0) && !waits {
                return ran;
            }
            assert!(matches!(ran.code, Some(0 | 3)), "{}\n{}", ran.out, ran.err);
            self.stir(100);
            last = format!("{}\n{}", ran.out, ran.err);
        }
        panic!("`{verb}` does not end:\n{last}");
    }

    /// Every device shows that this network alone serves it; the auditor and the air have seen nothing wrong.
    #[track_caller]
    pub fn prove(&self, network: &str) {
        lock(&self.field).prove(network, &self.auditor);
    }
}
