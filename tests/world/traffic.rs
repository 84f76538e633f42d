//! A fleet on the air: devices that join, send and are sent to whenever they are stirred.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use stackferry::{
    model::device::{Component, Record, Records},
    rehearsal::{
        Tts,
        air::{Downlink, Ether, EtherError, Network, NetworkFacts},
        auditor::{Auditor, Side, Terms, prove_alive},
        device::{Refused, SimDevice},
        store::{Store, Table},
    },
};

use super::{APP, OTHER_APP, Ran, World, dev};

/// A deployment as a network on the air. It is not kept alive by that: its hooks hold the air.
struct OnAir {
    facts: NetworkFacts,
    tts: Weak<Tts>,
}

impl OnAir {
    fn new(tts: &Arc<Tts>) -> Self {
        let settings = tts.settings();
        let dev_addr_prefixes = settings.dev_addr_prefixes.clone();
        Self { facts: NetworkFacts { net_id: settings.net_id, dev_addr_prefixes }, tts: Arc::downgrade(tts) }
    }
}

impl Network for OnAir {
    fn facts(&self) -> NetworkFacts {
        self.facts.clone()
    }

    fn with_store(&self, work: &mut dyn FnMut(&mut Store)) {
        if let Some(tts) = self.tts.upgrade() {
            work(&mut tts.store());
        }
    }
}

/// A deployment as a network on the air.
pub fn on_air(tts: &Arc<Tts>) -> Arc<dyn Network> {
    Arc::new(OnAir::new(tts))
}

/// The fleet on the air, and what went wrong there.
pub struct Field {
    pub ether: Ether,
    networks: Vec<&'static str>,
    pub devices: Vec<SimDevice>,
    pub wrong: Vec<String>,
    pub seed: u64,
}

impl Field {
    /// Devices that two networks hear: `source` and `target`.
    pub fn new(world: &World, numbers: &[usize], seed: u64) -> Self {
        Self::of(world, numbers, seed, &[("source", &world.source.tts), ("target", &world.target.tts)])
    }

    /// Devices that these networks hear.
    pub fn of(world: &World, numbers: &[usize], seed: u64, networks: &[(&'static str, &Arc<Tts>)]) -> Self {
        let devices = numbers.iter().map(|n| simulated(world, *n)).collect();
        let networks = networks.iter().map(|(name, tts)| (*name, on_air(tts))).collect();
        Self::with(networks, devices, seed)
    }

    /// These devices, which all of these networks hear.
    pub fn with(networks: Vec<(&'static str, Arc<dyn Network>)>, devices: Vec<SimDevice>, seed: u64) -> Self {
        let mut ether = Ether::default();
        let names = networks.iter().map(|(name, _)| *name).collect();
        networks.into_iter().for_each(|(name, network)| ether.add(name, network));
        Self { ether, networks: names, devices, wrong: Vec::new(), seed }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        // SplitMix64: a seed names the whole run.
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    /// One device does something.
    pub fn stir(&mut self) {
        let index = self.random(self.devices.len() as u64) as usize;
        let (what, which) = (self.random(10), self.random(self.networks.len() as u64) as usize);
        let side = self.networks[which];
        let Self { ether, devices, wrong, .. } = self;
        let device = &mut devices[index];
        let result = match what {
            0 if device.joins() => ether.join(device).map(drop),
            1 | 2 => {
                let down = Downlink { f_port: 7, payload: b"down", confirmed: false };
                ether.downlink(side, device, down).map(drop)
            }
            _ if device.is_multicast() => Ok(()),
            n => ether.uplink(device, 1, b"up", n == 3).map(drop),
        };
        match result {
            // No session, muted, not registered there: nothing is wrong with that.
            Ok(()) | Err(EtherError::Device(_) | EtherError::Downlink { .. }) => {}
            // Sent to the address that the device had before its last join: it does not listen there any more.
            Err(EtherError::Refused { why: Refused::NotForUs, .. }) if matches!(what, 1 | 2) => {}
            Err(error) => wrong.push(format!("{:?}: action {what}: {error}", device.identity().dev_eui)),
        }
    }
}

impl Field {
    /// Every device shows that this network alone serves it; the auditor and the air have seen nothing wrong.
    #[track_caller]
    pub fn prove(&mut self, network: &str, auditor: &Auditor) {
        assert_eq!(self.wrong, [""; 0], "the air");
        for device in &mut self.devices {
            let proof = prove_alive(&self.ether, device).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(proof.network, network);
        }
        let breaches: Vec<_> = auditor.finish().iter().map(ToString::to_string).collect();
        assert_eq!(breaches, [""; 0]);
    }

    /// Every device that can joins: one whose session was dropped has to before it is heard again.
    pub fn join_all(&mut self) {
        let Self { ether, devices, .. } = self;
        for device in devices.iter_mut().filter(|d| d.joins()) {
            ether.join(device).expect("it may join");
        }
    }
}

fn simulated(world: &World, number: usize) -> SimDevice {
    let mut records = Records::default();
    for component in Component::ALL {
        let record = world.source.record(Table::of(component), APP, &dev(number));
        *records.slot(component) = record.map(Record);
    }
    SimDevice::from_records(&records).expect("the fixture's devices can be simulated")
}

/// What the fixture's runs leave behind by name or by design.
pub fn terms() -> Terms {
    Terms { replaced: ["picture"].map(str::to_owned).into(), ..Terms::default() }
}

/// A world whose fleet is on the air: something happens there before every call of either side, and an auditor watches.
pub struct Watched {
    pub world: World,
    pub field: Arc<Mutex<Field>>,
    pub auditor: Auditor,
}

impl Watched {
    /// The fixture's devices with these numbers, between two deployments.
    pub fn new(world: World, numbers: &[usize], seed: u64) -> Self {
        let auditor = Auditor::new(terms());
        auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
        auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
        let field = Field::new(&world, numbers, seed);
        Self::on_air(world, field, auditor)
    }

    /// As [`Watched::new`], between two applications of one deployment.
    pub fn swap(world: World, numbers: &[usize], seed: u64) -> Self {
        let auditor = Auditor::new(Terms { swap: true, ..terms() });
        auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
        auditor.attach(Side::Target, &mut world.target.tts.store(), Some(OTHER_APP));
        let field = Field::of(&world, numbers, seed, &[("both", &world.source.tts)]);
        Self::on_air(world, field, auditor)
    }

    fn on_air(world: World, field: Field, auditor: Auditor) -> Self {
        let field = Arc::new(Mutex::new(field));
        let (source, target) = (&world.source.tts, &world.target.tts);
        let one = Arc::ptr_eq(source, target);
        for tts in [source, target].into_iter().take(if one { 1 } else { 2 }) {
            let field = Arc::clone(&field);
            tts.on_call(move |_| {
                lock(&field).stir();
                None
            });
        }
        Self { world, field, auditor }
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
            if ran.code == Some(0)
                && !ran.out.contains("waiting")
                && !ran.out.contains("cannot come back now")
            {
                return ran;
            }
            assert!(matches!(ran.code, Some(0 | 3)), "{}\n{}", ran.out, ran.err);
            self.stir(100);
            last = format!("{}\n{}", ran.out, ran.err);
        }
        panic!("`{verb}` does not end:\n{last}");
    }

    /// Every device that can joins: one whose session was dropped has to before it is heard again.
    pub fn join_all(&self) {
        lock(&self.field).join_all();
    }

    /// Every device shows that this network alone serves it; the auditor and the air have seen nothing wrong.
    #[track_caller]
    pub fn prove(&self, network: &str) {
        lock(&self.field).prove(network, &self.auditor);
    }
}

pub fn lock(field: &Mutex<Field>) -> MutexGuard<'_, Field> {
    field.lock().unwrap_or_else(PoisonError::into_inner)
}
