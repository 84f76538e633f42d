//! Devices against V2: what it counts, and what clearing does to the radio (docs/servers.md, V2 radio).

use std::sync::Arc;

use prost_reflect::DynamicMessage;

use super::*;
use crate::rehearsal::{
    air::{Answer, Ether},
    device::NotSimulated,
    store::Table,
    ttn_v2::{
        TtnV2,
        samples::{bytes, full, v2},
    },
};

/// One device of V2 on the air.
struct OnV2 {
    v2: Arc<TtnV2>,
    ether: Ether,
    device: SimDevice,
}

impl OnV2 {
    /// A device with these changes to the whole one, as its records describe it.
    fn new(change: impl FnOnce(&mut DynamicMessage)) -> Self {
        let v2 = v2();
        let mut device = full("a1");
        path::clear(&mut device, "lorawan_device.disable_f_cnt_check");
        change(&mut device);
        v2.set(device).expect("created");
        let mut ether = Ether::new(now);
        ether.add("v2", Arc::<TtnV2>::clone(&v2));
        let device = SimDevice::from_v2(&v2.get("a1").expect("there")).expect("whole");
        Self { v2, ether, device }
    }

    fn read(&self) -> DynamicMessage {
        self.v2.get("a1").expect("there")
    }

    fn number(&self, field: &str) -> u64 {
        path::number(&self.read(), &format!("lorawan_device.{field}"))
    }

    /// Reads the whole device and sets it with a change.
    fn change(&self, change: impl FnOnce(&mut DynamicMessage)) {
        let mut device = self.read();
        change(&mut device);
        self.v2.set(device).expect("updated");
    }

    fn join(&mut self) -> Answer {
        self.ether.join(&mut self.device).expect("one network")
    }

    fn send(&mut self, confirmed: bool) -> Answer {
        self.ether.uplink(&mut self.device, 5, b"data", confirmed).expect("one network")
    }
}

fn zero(device: &mut DynamicMessage, field: &str) {
    let length = if field == "dev_addr" { 4 } else { 16 };
    path::set(device, &format!("lorawan_device.{field}"), bytes(0, length));
}

fn why(answer: &Answer) -> String {
    answer.heard[0].1.as_ref().map(|_| ()).expect_err("dropped").to_string()
}

#[test]
fn a_device_goes_on_with_its_session_and_both_counters_are_kept() {
    let mut air = OnV2::new(|_| {});
    let answer = air.send(false);
    assert_eq!((answer.payload_at("v2"), answer.received.len()), (Some(&b"data"[..]), 0));
    assert_eq!((air.number("f_cnt_up"), air.number("f_cnt_down")), (70_001, 21));
    assert_eq!(i128::from(air.number("last_seen")), now().as_nanosecond());

    let answer = air.send(true);
    assert!(matches!(answer.received[..], [Received::Data { f_cnt: 21, ack: true, f_port: None, .. }]));
    assert_eq!((air.number("f_cnt_up"), air.number("f_cnt_down")), (70_002, 22));

    let down = Downlink { f_port: 9, payload: b"set", confirmed: false };
    assert_eq!(air.ether.downlink("v2", &mut air.device, down).expect("queued"), None, "class A");
    let answer = air.send(false);
    assert!(
        matches!(&answer.received[..], [Received::Data { f_cnt: 22, f_port: Some(9), payload, .. }] if payload == b"set")
    );
    assert!(air.send(false).received.is_empty(), "it is sent once");

    // One that wants an acknowledgement is sent until it comes; the device sends it along with its next uplink.
    let down = Downlink { f_port: 9, payload: b"sure", confirmed: true };
    air.ether.downlink("v2", &mut air.device, down).expect("queued");
    assert_eq!(air.send(false).received.len(), 1);
    assert_eq!(air.send(false).received.len(), 0);
    assert_eq!(air.number("f_cnt_down"), 24);
}

#[test]
fn a_join_makes_a_session_in_the_block_of_the_network_and_uses_a_nonce() {
    let mut air = OnV2::new(|_| {});
    let before = air.read();
    let answer = air.join();
    assert!(matches!(answer.received[..], [Received::Joined { .. }]));
    let after = air.read();
    let addr = air.device.dev_addr().expect("joined");
    assert_eq!(addr.0[..2], [0x26, 0x01]);
    assert_eq!(path::bytes(&after, "lorawan_device.dev_addr"), addr.0);
    for key in ["nwk_s_key", "app_s_key"] {
        let at = format!("lorawan_device.{key}");
        assert_ne!(path::bytes(&after, &at), path::bytes(&before, &at), "{key}");
    }
    assert_eq!((air.number("f_cnt_up"), air.number("f_cnt_down")), (0, 0));
    let answer = air.send(true);
    assert_eq!((answer.payload_at("v2"), answer.received.len()), (Some(&b"data"[..]), 1));
    assert_eq!((air.number("f_cnt_up"), air.number("f_cnt_down")), (0, 1), "the first uplink has FCntUp 0");
    air.send(false);
    assert_eq!(air.number("f_cnt_up"), 1);
}

#[test]
fn a_dev_nonce_is_refused_until_the_app_key_changes() {
    let air = OnV2::new(|_| {});
    let mut again = air.device.clone();
    let (v2, net) = (&air.v2, facts(0x13, "26010000/16"));
    let hear = |device: &mut SimDevice| {
        let phy = device.join_request().expect("joins");
        uplink(&mut v2.store(), &net, now(), &phy)
    };
    assert_eq!(hear(&mut air.device.clone()).expect("accepted").downlinks.len(), 1);
    let refused = hear(&mut again.clone()).expect_err("the same nonce");
    assert_eq!(refused.to_string(), "DevNonce was used before");
    // Cleared and restored: V2 has forgotten.
    let original = air.read();
    air.change(|device| zero(device, "app_key"));
    assert_eq!(hear(&mut again.clone()).expect_err("no key").to_string(), "no AppKey");
    air.v2.set(original).expect("restored");
    hear(&mut again).expect("accepted once more");
}

#[test]
fn without_its_app_key_a_device_cannot_join_and_its_session_goes_on() {
    let mut air = OnV2::new(|_| {});
    air.change(|device| zero(device, "app_key"));
    assert_eq!(why(&air.join()), "no AppKey");
    let answer = air.send(true);
    assert_eq!((answer.payload_at("v2"), answer.received.len()), (Some(&b"data"[..]), 1));
    assert_eq!(air.number("f_cnt_up"), 70_001);
}

#[test]
fn without_its_session_a_device_is_not_heard_and_its_counters_stay() {
    let mut air = OnV2::new(|_| {});
    air.change(|device| {
        for field in ["app_key", "app_s_key", "nwk_s_key", "dev_addr"] {
            zero(device, field);
        }
    });
    assert_eq!(why(&air.send(true)), "no session has this DevAddr and so low a counter");
    assert_eq!((air.number("f_cnt_up"), air.number("f_cnt_down")), (70_000, 21));
}

#[test]
fn a_counter_that_was_left_out_kills_a_device_past_16_bits() {
    let mut air = OnV2::new(|_| {});
    air.change(|device| path::clear(device, "lorawan_device.f_cnt_up"));
    assert_eq!(why(&air.send(false)), "wrong MIC", "over the wrong upper half");
    // Below that it lives, and what was sent before is taken again.
    let mut air = OnV2::new(|device| path::set(device, "lorawan_device.f_cnt_up", Value::U32(100)));
    let mut old = air.device.clone();
    air.send(false);
    assert_eq!(why(&air.ether.uplink(&mut old, 5, b"old", false).expect("sent")), "FCnt not high enough");
    air.change(|device| path::clear(device, "lorawan_device.f_cnt_up"));
    old.power_cycle();
    let replayed = air.ether.uplink(&mut old, 5, b"old", false).expect("sent");
    assert_eq!(replayed.payload_at("v2"), Some(&b"old"[..]));
}

#[test]
fn counters_are_checked_by_width_and_gap_unless_that_is_switched_off() {
    // 16 bits: what comes after 65535 is not a higher one.
    let narrow = |device: &mut DynamicMessage| {
        path::clear(device, "lorawan_device.uses32_bit_f_cnt");
        path::set(device, "lorawan_device.f_cnt_up", Value::U32(65_535));
    };
    let mut air = OnV2::new(narrow);
    assert_eq!(why(&air.send(false)), "no session has this DevAddr and so low a counter");
    let mut air = OnV2::new(|device| path::set(device, "lorawan_device.f_cnt_up", Value::U32(65_535)));
    air.send(false).heard[0].1.as_ref().expect("32 bits go on");
    assert_eq!(air.number("f_cnt_up"), 65_536);

    let at = |n: u32| {
        move |device: &mut DynamicMessage| path::set(device, "lorawan_device.f_cnt_up", Value::U32(n))
    };
    for (gap, fits) in [(16_384, true), (16_385, false)] {
        let mut air = OnV2::new(at(100 + gap - 1));
        air.change(at(100));
        assert_eq!(air.send(false).heard[0].1.is_ok(), fits, "{gap}");
        air.change(|device| path::set(device, "lorawan_device.disable_f_cnt_check", Value::Bool(true)));
        air.device.power_cycle();
        air.send(false).heard[0].1.as_ref().expect("any counter");
        assert_eq!(air.number("f_cnt_up"), 0);
    }
}

#[test]
fn only_a_device_with_a_root_key_or_a_session_can_be_simulated() {
    let v2 = v2();
    v2.load_devices(crate::rehearsal::ttn_v2::samples::FLEET, "fleet").expect("a listing");
    let ids: Vec<_> = v2.store().iter(Table::V2Devices).map(|(key, _)| key.to_owned()).collect();
    let mut without = Vec::new();
    let mut ether = Ether::new(now);
    ether.add("v2", Arc::<TtnV2>::clone(&v2));
    for id in ids.iter().filter_map(|key| key.strip_prefix("fleet.")) {
        match SimDevice::from_v2(&v2.get(id).expect("there")) {
            Ok(mut device) if device.dev_addr().is_some() => {
                let answer = ether.uplink(&mut device, 5, b"data", true).expect("one network");
                assert_eq!(answer.payload_at("v2"), Some(&b"data"[..]), "{id}");
                assert_eq!(answer.received.len(), 1, "{id}");
            }
            Ok(mut device) if device.joins() => {
                let answer = ether.join(&mut device).expect("one network");
                assert!(matches!(answer.received[..], [Received::Joined { .. }]), "{id}");
            }
            Ok(_) => without.push(id),
            Err(NotSimulated { why, .. }) => {
                assert_eq!(why, "neither a root key nor a whole session");
                without.push(id);
            }
        }
    }
    assert_eq!(without, ["bare", "roj-template"]);
}
