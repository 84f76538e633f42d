//! Random lives of a device, with frames lost either way.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Join { lost_up: bool, lost_down: bool },
    Up { confirmed: bool, lost_up: bool, lost_down: bool },
    Down { confirmed: bool, lost: bool },
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rare = || prop::bool::weighted(0.2);
    let step = prop_oneof![
        2 => (rare(), rare()).prop_map(|(lost_up, lost_down)| Step::Join { lost_up, lost_down }),
        6 => (any::<bool>(), rare(), rare())
            .prop_map(|(confirmed, lost_up, lost_down)| Step::Up { confirmed, lost_up, lost_down }),
        4 => (any::<bool>(), rare()).prop_map(|(confirmed, lost)| Step::Down { confirmed, lost }),
        1 => Just(Step::Reload),
    ];
    prop::collection::vec(step, 1..40)
}

/// Delivers what the network sent; a device in step takes all of it.
fn deliver(device: &mut SimDevice, sent: &[Vec<u8>], lost: bool) -> Result<(), TestCaseError> {
    for phy in sent.iter().filter(|_| !lost) {
        let got = device.receive(phy);
        prop_assert!(got.is_ok(), "{got:?}");
    }
    Ok(())
}

/// A device, its network, and what they must still agree on.
struct Model {
    bed: Bed,
    device: SimDevice,
    version: MacVersion,
    /// The network has heard of the device's session.
    used: bool,
    /// A session that was never used is gone at the network when it accepts another join, whether or not the device
    /// hears of that: so it is with the real stack.
    orphan: bool,
}

impl Model {
    fn new(version: MacVersion, class_c: bool, joins: bool) -> Self {
        let mut bed = Bed::new();
        let class = |ns: &mut prost_reflect::DynamicMessage| {
            path::set(ns, "supports_class_c", Value::Bool(class_c));
        };
        let device = if joins {
            let device = otaa(&mut bed.store, 1, version);
            edit(&mut bed.store, Component::Ns, 1, class);
            device
        } else {
            abp(&mut bed.store, 1, version, class)
        };
        Self { bed, device, version, used: !joins, orphan: false }
    }

    fn step(&mut self, i: usize, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Join { lost_up, lost_down } if self.device.joins() => self.join(lost_up, lost_down),
            Step::Up { confirmed, lost_up, lost_down } if self.device.dev_addr().is_some() => {
                self.up(&i.to_be_bytes(), confirmed, lost_up, lost_down)
            }
            Step::Down { confirmed, lost } => self.down(confirmed, lost),
            Step::Reload => self.reload(),
            _ => Ok(()),
        }
    }

    fn join(&mut self, lost_up: bool, lost_down: bool) -> Result<(), TestCaseError> {
        let phy = self.device.join_request().expect("joins");
        if lost_up {
            return Ok(());
        }
        let heard = self.bed.hear(&phy);
        prop_assert!(heard.is_ok(), "{heard:?}");
        deliver(&mut self.device, &heard.expect("heard").downlinks, lost_down)?;
        (self.used, self.orphan) = (self.used && lost_down, lost_down && !self.used);
        Ok(())
    }

    fn up(
        &mut self,
        payload: &[u8],
        confirmed: bool,
        lost: bool,
        lost_down: bool,
    ) -> Result<(), TestCaseError> {
        let phy = self.device.uplink(7, payload, confirmed).expect("a session");
        if self.orphan {
            prop_assert!(self.bed.hear(&phy).is_err());
        } else if !lost {
            self.used = true;
            let heard = self.bed.hear(&phy);
            prop_assert!(heard.is_ok(), "{heard:?}");
            let heard = heard.expect("heard");
            let read = matches!(&heard.uplink, Uplink::Data { payload: Ok(got), .. } if got == payload);
            prop_assert!(read, "{heard:?}");
            prop_assert!(!confirmed || heard.downlinks.len() == 1);
            deliver(&mut self.device, &heard.downlinks, lost_down)?;
        }
        Ok(())
    }

    fn down(&mut self, confirmed: bool, lost: bool) -> Result<(), TestCaseError> {
        let down = Downlink { f_port: 9, payload: b"set", confirmed };
        let sent = downlink(&mut self.bed.store, now(), APPLICATION, &device_id(1), down);
        // The network's session need not be the device's: it may have joined since.
        let ns = records(&self.bed.store, 1).ns.expect("stored");
        match sent {
            Ok(Some(phy)) if ns.session_addr() == self.device.dev_addr() => {
                deliver(&mut self.device, &[phy], lost)
            }
            _ => Ok(()),
        }
    }

    fn reload(&mut self) -> Result<(), TestCaseError> {
        let stored = records(&self.bed.store, 1);
        let key = path::bytes(&stored.ns.as_ref().expect("stored").0, "session.keys.f_nwk_s_int_key.key");
        // A device that still rekeys must go on doing so: only the device knows.
        if self.device.has_session_key(&key) && !self.version.is_1_1() {
            let before = self.device.f_cnt_down().0;
            self.device = SimDevice::from_records(&stored).expect("whole");
            prop_assert!(self.device.f_cnt_down().0 >= before);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn device_and_network_stay_in_step(
        version in prop::sample::select(&VERSIONS[..]), class_c: bool, joins: bool, steps in steps(),
    ) {
        let mut model = Model::new(version, class_c, joins);
        for (i, step) in steps.into_iter().enumerate() {
            model.step(i, step)?;
        }
    }

    #[test]
    fn no_uplink_makes_the_servers_panic(
        header in prop::sample::select(&[0x00_u8, 0x20, 0x40, 0x60, 0x80, 0xC0][..]),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bed = Bed::new();
        otaa(&mut bed.store, 1, MacVersion::V1_0_3);
        let phy = [&[header][..], &rest].concat();
        prop_assert!(bed.hear(&phy).is_err());
    }
}
