//! A fleet on the air: devices that join, send and are sent to whenever they are stirred.

use std::sync::Arc;

use stackferry::{
    model::device::{Component, Record, Records},
    rehearsal::{
        Tts,
        air::{Downlink, Ether, EtherError, Network, NetworkFacts},
        auditor::Terms,
        device::{Refused, SimDevice},
        store::{Store, Table},
    },
};

use super::{APP, World, dev};

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
pub struct Field {
    pub ether: Ether,
    pub devices: Vec<SimDevice>,
    pub wrong: Vec<String>,
    seed: u64,
}

impl Field {
    pub fn new(world: &World, numbers: &[usize], seed: u64) -> Self {
        let mut ether = Ether::default();
        ether.add("source", Arc::new(OnAir(Arc::clone(&world.source.tts))));
        ether.add("target", Arc::new(OnAir(Arc::clone(&world.target.tts))));
        let devices = numbers.iter().map(|n| simulated(world, *n)).collect();
        Self { ether, devices, wrong: Vec::new(), seed }
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
pub fn terms() -> Terms {
    Terms { replaced: ["picture"].map(str::to_owned).into(), ..Terms::default() }
}
