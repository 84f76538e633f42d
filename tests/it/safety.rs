//! Devices that join, send and are sent to between any two calls of a run, and an auditor that knows only what the
//! servers stored.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use stackferry::{
    model::device::{Component, Record, Records},
    rehearsal::{
        Tts,
        air::{Downlink, Ether, EtherError, Network, NetworkFacts},
        auditor::{Auditor, Side, Terms, prove_alive},
        device::{Refused, SimDevice},
        store::{Store, Table, device_key},
    },
};

use crate::world::{APP, World, dev};

/// A deployment as a network on the air.
struct OnAir(Arc<Tts>);

impl Network for OnAir {
    fn facts(&self) -> NetworkFacts {
        let settings = self.0.settings();
        NetworkFacts { net_id: settings.net_id, dev_addr_prefixes: settings.dev_addr_prefixes.clone() }
    }

    fn with_store(&self, work: &mut dyn FnMut(&mut Store)) {
        work(&mut self.0.store());
    }
}

/// The fleet on the air, and what went wrong there.
struct Field {
    ether: Ether,
    devices: Vec<SimDevice>,
    wrong: Vec<String>,
    seed: u64,
}

impl Field {
    fn new(world: &World, numbers: &[usize], seed: u64) -> Self {
        let mut ether = Ether::default();
        ether.add("source", Arc::new(OnAir(Arc::clone(&world.source.tts))));
        ether.add("target", Arc::new(OnAir(Arc::clone(&world.target.tts))));
        let devices = numbers.iter().map(|n| simulated(world, *n)).collect();
        Self { ether, devices, wrong: Vec::new(), seed }
    }

    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64: a seed names the whole run.
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    /// One device does something.
    fn stir(&mut self) {
        let index = self.random(self.devices.len() as u64) as usize;
        let (what, side) = (self.random(10), if self.random(2) == 0 { "source" } else { "target" });
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

fn simulated(world: &World, number: usize) -> SimDevice {
    let mut records = Records::default();
    for component in Component::ALL {
        let record = world.source.record(Table::of(component), APP, &dev(number));
        *records.slot(component) = record.map(Record);
    }
    SimDevice::from_records(&records).expect("the fixture's devices can be simulated")
}

/// What the fixture's runs leave behind by name or by design.
fn terms() -> Terms {
    Terms { replaced: ["picture"].map(str::to_owned).into(), ..Terms::default() }
}

fn run_with_traffic(numbers: &[usize], config: &str, seed: u64) {
    let world = World::some(numbers);
    world.config(config);
    let auditor = Auditor::new(terms());
    auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
    let field = Arc::new(Mutex::new(Field::new(&world, numbers, seed)));
    let calls = Arc::new(AtomicU64::new(0));
    for side in [&world.source, &world.target] {
        let (field, calls) = (Arc::clone(&field), Arc::clone(&calls));
        side.tts.on_call(move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
            field.lock().unwrap_or_else(PoisonError::into_inner).stir();
            None
        });
    }
    // Devices that are just joining have to wait: the same command goes on until all are over.
    let mut last = String::new();
    for _ in 0..12 {
        let ran = world.run();
        last = format!("{}\n{}", ran.out, ran.err);
        assert!(matches!(ran.code, Some(0 | 3)), "seed {seed}:\n{last}");
        if world.target.count(Table::Ns, APP) == numbers.len()
            && ran.code == Some(0)
            && !ran.out.contains("waiting")
        {
            break;
        }
        let mut field = field.lock().unwrap_or_else(PoisonError::into_inner);
        (0..100).for_each(|_| field.stir());
    }
    let mut field = field.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(field.wrong, [""; 0], "seed {seed}: the air");
    assert_eq!(world.target.count(Table::Ns, APP), numbers.len(), "seed {seed}: not all moved:\n{last}");
    let Field { ether, devices, .. } = &mut *field;
    for device in devices {
        let proof = prove_alive(ether, device).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{last}"));
        assert_eq!(proof.network, "target", "seed {seed}");
    }
    let breaches: Vec<_> = auditor.finish().iter().map(ToString::to_string).collect();
    assert_eq!(breaches, [""; 0], "seed {seed}");
    assert!(calls.load(Ordering::SeqCst) > 50, "there was no traffic");
}

/// One of each kind of the fixture, without queued downlinks at the start.
const KINDS: [usize; 10] = [0, 1, 2, 13, 4, 5, 6, 7, 8, 9];

#[test]
fn kept_sessions_go_on_under_traffic() {
    for seed in 1..=3 {
        run_with_traffic(
            &KINDS,
            "[transform]\nsession = \"keep\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"keys\"\n",
            seed,
        );
    }
}

#[test]
fn dropped_sessions_join_again_under_traffic() {
    for seed in 11..=13 {
        run_with_traffic(
            &KINDS,
            "[transform]\nsession = \"drop\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"keys\"\n",
            seed,
        );
    }
}

#[test]
fn the_auditor_is_not_asleep() {
    let world = World::some(&[1]);
    let auditor = Auditor::new(terms());
    auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
    world.source.tts.store().remove(Table::Js, &device_key(APP, &dev(1))).expect("memory");
    assert!(!auditor.breaches().is_empty(), "keys left the source before the target had them");
}
