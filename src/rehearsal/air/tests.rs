//! Devices and networks against each other.

use prost_reflect::Value;

use super::{
    fields::{counter, list},
    samples::{APPLICATION, abp, device_id, edit, facts, multicast, mute, now, otaa, records},
    *,
};
use crate::{
    map::path,
    model::device::Component,
    rehearsal::{
        device::{Received, Refused, SimDevice},
        lorawan::MacVersion,
    },
};

mod model;
mod v2;

const VERSIONS: [MacVersion; 4] =
    [MacVersion::V1_0_2, MacVersion::V1_0_3, MacVersion::V1_0_4, MacVersion::V1_1];

struct Bed {
    store: Store,
    net: NetworkFacts,
}

impl Bed {
    fn new() -> Self {
        Self { store: Store::in_memory(), net: facts(0x13, "26000000/7") }
    }

    fn hear(&mut self, phy: &[u8]) -> Result<Heard, Dropped> {
        uplink(&mut self.store, &self.net, now(), phy)
    }

    fn join(&mut self, device: &mut SimDevice) {
        let heard = self.hear(&device.join_request().expect("joins")).expect("heard");
        assert_eq!(heard.downlinks.len(), 1);
        assert!(matches!(device.receive(&heard.downlinks[0]), Ok(Received::Joined { .. })));
    }

    fn send(&mut self, device: &mut SimDevice, payload: &[u8], confirmed: bool) -> Heard {
        let phy = device.uplink(7, payload, confirmed).expect("a session");
        let heard = self.hear(&phy).expect("heard");
        assert!(
            matches!(&heard.uplink, Uplink::Data { payload: Ok(got), .. } if got == payload),
            "{heard:?}"
        );
        heard
    }

    fn push(&mut self, n: u8, payload: &[u8], confirmed: bool) -> Option<Vec<u8>> {
        let down = Downlink { f_port: 9, payload, confirmed };
        downlink(&mut self.store, now(), APPLICATION, &device_id(n), down).expect("queued")
    }

    fn ns(&self, at: &str) -> u32 {
        counter(&records(&self.store, 1).ns.expect("stored").0, at)
    }

    fn as_(&self, at: &str) -> u32 {
        counter(&records(&self.store, 1).as_.expect("stored").0, at)
    }
}

#[test]
fn a_device_of_every_version_joins_sends_and_receives() {
    for version in VERSIONS {
        let mut bed = Bed::new();
        let mut device = otaa(&mut bed.store, 1, version);
        bed.join(&mut device);
        let before = records(&bed.store, 1);
        let ns = &before.ns.expect("stored").0;
        assert!(!path::has(ns, "session") && path::has(ns, "pending_session"), "{version:?}");
        assert!(!path::has(&before.is.expect("stored").0, "activated_at"));

        let heard = bed.send(&mut device, b"one", true);
        assert_eq!(heard.downlinks.len(), 1, "{version:?}: the acknowledgement");
        assert!(matches!(device.receive(&heard.downlinks[0]), Ok(Received::Data { ack: true, .. })));
        let after = records(&bed.store, 1);
        let ns = &after.ns.as_ref().expect("stored").0;
        assert!(path::has(ns, "session") && !path::has(ns, "pending_session"));
        assert_eq!(path::bytes(ns, "ids.dev_addr"), device.dev_addr().expect("joined").0);
        assert!(bed.net.dev_addr_prefixes[0].contains(device.dev_addr().expect("joined")));
        let as_ = &after.as_.as_ref().expect("stored").0;
        assert!(path::has(as_, "session.keys.app_s_key") && !path::has(as_, "pending_session"));
        let is = &after.is.as_ref().expect("stored").0;
        assert!(path::has(is, "activated_at") && path::has(is, "last_seen_at"));
        assert_eq!(list(ns, "mac_state.recent_uplinks").len(), 2);

        // The device of these records is the device that made them.
        let mut twin = SimDevice::from_records(&after).expect("whole");
        assert_eq!(twin.f_cnt_down(), device.f_cnt_down());
        assert!(twin.readable());
        assert!(twin.uplink(7, b"x", false) == device.clone().uplink(7, b"x", false));

        assert_eq!(bed.push(1, b"set", false), None, "{version:?}: class A waits for an uplink");
        let heard = bed.send(&mut device, b"two", false);
        let Ok(Received::Data { payload, .. }) = device.receive(&heard.downlinks[0]) else {
            panic!("refused")
        };
        assert_eq!(payload, b"set");
    }
}

#[test]
fn a_muted_device_is_heard_but_never_answered() {
    for version in VERSIONS {
        let mut bed = Bed::new();
        let mut device = otaa(&mut bed.store, 1, version);
        bed.join(&mut device);
        let first = bed.send(&mut device, b"before", false);
        for phy in &first.downlinks {
            device.receive(phy).expect("fresh");
        }
        mute(&mut bed.store, 1, true);
        let heard = bed.send(&mut device, b"while", true);
        assert_eq!(heard.downlinks.len(), 0);
        assert_eq!(bed.ns("session.last_f_cnt_up"), 1);
        assert_eq!(bed.push(1, b"set", false), None);

        let nonce = counter(&records(&bed.store, 1).js.expect("stored").0, "last_join_nonce");
        let heard = bed.hear(&device.join_request().expect("joins")).expect("heard");
        assert!(heard.downlinks.is_empty() && heard.uplink == Uplink::Join);
        let after = records(&bed.store, 1);
        assert_eq!(counter(&after.js.expect("stored").0, "last_join_nonce"), nonce + 1);
        let ns = after.ns.expect("stored").0;
        assert!(path::has(&ns, "pending_mac_state.queued_join_accept") && !path::has(&ns, "pending_session"));

        mute(&mut bed.store, 1, false);
        let heard = bed.send(&mut device, b"after", false);
        let Ok(Received::Data { payload, .. }) = device.receive(&heard.downlinks[0]) else {
            panic!("refused")
        };
        assert_eq!(payload, b"set");
        bed.join(&mut device);
    }
}

#[test]
fn the_join_server_refuses_what_was_used_before() {
    for version in VERSIONS {
        let mut bed = Bed::new();
        let mut device = otaa(&mut bed.store, 1, version);
        let phy = device.join_request().expect("joins");
        bed.hear(&phy).expect("heard");
        assert!(matches!(bed.hear(&phy), Err(Dropped::Rule(why)) if why.starts_with("DevNonce")));
        let mut stranger = otaa(&mut Store::in_memory(), 2, version);
        assert!(matches!(bed.hear(&stranger.join_request().expect("joins")), Err(Dropped::Rule(_))));
        edit(&mut bed.store, Component::Js, 1, |js| {
            fields::set_bytes(js, "root_keys.app_key.key", &[9; 16]);
            fields::set_bytes(js, "root_keys.nwk_key.key", &[9; 16]);
        });
        let wrong = bed.hear(&device.join_request().expect("joins"));
        assert!(matches!(wrong, Err(Dropped::Rule("join-request with a wrong MIC"))), "{wrong:?}");
    }
}

#[test]
fn a_device_refuses_old_join_nonces_and_counters() {
    for version in [MacVersion::V1_0_4, MacVersion::V1_1] {
        let mut bed = Bed::new();
        let mut device = otaa(&mut bed.store, 1, version);
        bed.join(&mut device);
        edit(&mut bed.store, Component::Js, 1, |js| path::clear(js, "last_join_nonce"));
        let heard = bed.hear(&device.join_request().expect("joins")).expect("heard");
        assert_eq!(device.receive(&heard.downlinks[0]), Err(Refused::JoinNonce { last: 1, got: 1 }));
    }
    for version in VERSIONS {
        let mut bed = Bed::new();
        let mut device = otaa(&mut bed.store, 1, version);
        bed.join(&mut device);
        let first = bed.send(&mut device, b"one", true);
        device.receive(&first.downlinks[0]).expect("fresh");
        assert!(matches!(device.receive(&first.downlinks[0]), Err(Refused::Counter { .. })));
        let mut torn = first.downlinks[0].clone();
        torn[3] ^= 1;
        assert!(device.receive(&torn).is_err());
    }
}

#[test]
fn f_cnt_up_must_rise_unless_the_device_resets_it() {
    let mut bed = Bed::new();
    let mut device = abp(&mut bed.store, 1, MacVersion::V1_0_3, |_| {});
    let phy = device.uplink(7, b"zero", false).expect("a session");
    bed.hear(&phy).expect("FCntUp 0 is the first");
    assert!(matches!(bed.hear(&phy), Err(Dropped::Rule("FCntUp was seen before"))));
    bed.send(&mut device, b"one", false);
    device.power_cycle();
    let again = device.uplink(7, b"zero", false).expect("a session");
    assert!(matches!(bed.hear(&again), Err(Dropped::Rule(_))));

    edit(&mut bed.store, Component::Ns, 1, |ns| {
        path::set_wrapped(ns, "mac_settings.resets_f_cnt", Value::Bool(true));
    });
    bed.hear(&again).expect("resets are allowed now");
    assert_eq!(bed.ns("session.last_f_cnt_up"), 0);
    bed.send(&mut device, b"one", false);
}

#[test]
fn counters_go_beyond_16_bits() {
    let mut bed = Bed::new();
    abp(&mut bed.store, 1, MacVersion::V1_0_3, |_| {});
    edit(&mut bed.store, Component::Ns, 1, |ns| {
        fields::set_counter(ns, "session.last_f_cnt_up", 0x1_FFFF);
        fields::set_counter(ns, "session.last_n_f_cnt_down", 0x2_FFFF);
    });
    let mut device = SimDevice::from_records(&records(&bed.store, 1)).expect("whole");
    let heard = bed.send(&mut device, b"over", true);
    assert_eq!(bed.ns("session.last_f_cnt_up"), 0x2_0000);
    assert!(matches!(device.receive(&heard.downlinks[0]), Ok(Received::Data { f_cnt: 0x3_0000, .. })));
}

#[test]
fn the_application_server_of_1_0_catches_up_with_the_networks_counter() {
    // As in records from the field: the Network Server is at 51, the AS counted nothing.
    let mut bed = Bed::new();
    abp(&mut bed.store, 1, MacVersion::V1_0_3, |_| {});
    edit(&mut bed.store, Component::Ns, 1, |ns| {
        fields::set_counter(ns, "session.last_n_f_cnt_down", 51);
    });
    let mut device = SimDevice::from_records(&records(&bed.store, 1)).expect("whole");
    bed.push(1, b"set", false);
    assert_eq!(bed.as_("session.last_a_f_cnt_down"), 52);
    let heard = bed.send(&mut device, b"up", false);
    let got = device.receive(&heard.downlinks[0]);
    assert!(matches!(&got, Ok(Received::Data { f_cnt: 52, payload, .. }) if payload == b"set"), "{got:?}");
    assert_eq!(bed.ns("session.last_n_f_cnt_down"), 52);

    // An acknowledgement takes 53, and the AS is told.
    let heard = bed.send(&mut device, b"up", true);
    device.receive(&heard.downlinks[0]).expect("fresh");
    assert_eq!((bed.ns("session.last_n_f_cnt_down"), bed.as_("session.last_a_f_cnt_down")), (53, 53));
}

#[test]
fn a_queued_downlink_whose_counter_is_used_up_is_counted_anew() {
    let mut bed = Bed::new();
    let mut device = abp(&mut bed.store, 1, MacVersion::V1_0_3, |_| {});
    bed.push(1, b"late", false);
    edit(&mut bed.store, Component::Ns, 1, |ns| {
        fields::set_counter(ns, "session.last_n_f_cnt_down", 7);
    });
    assert!(bed.send(&mut device, b"up", false).downlinks.is_empty());
    let heard = bed.send(&mut device, b"up", false);
    let got = device.receive(&heard.downlinks[0]);
    assert!(matches!(&got, Ok(Received::Data { f_cnt: 8, payload, .. }) if payload == b"late"), "{got:?}");
}

#[test]
fn a_multicast_group_and_a_class_c_device_receive_at_any_time() {
    let mut bed = Bed::new();
    let mut group = multicast(&mut bed.store, 1);
    for n in 1..4 {
        let phy = bed.push(1, b"all", false).expect("sent at once");
        let got = group.receive(&phy);
        assert!(
            matches!(&got, Ok(Received::Data { f_cnt, payload, .. }) if *f_cnt == n && payload == b"all")
        );
    }
    assert!(matches!(group.uplink(1, b"no", false), Err(Refused::NotForUs)));
    mute(&mut bed.store, 1, true);
    assert_eq!(bed.push(1, b"all", false), None);

    let mut bed = Bed::new();
    let mut device = abp(&mut bed.store, 1, MacVersion::V1_0_3, |ns| {
        path::set(ns, "supports_class_c", Value::Bool(true));
    });
    assert_eq!(bed.push(1, b"no way yet", false), None, "no gateway is known");
    let heard = bed.send(&mut device, b"here", false);
    device.receive(&heard.downlinks[0]).expect("the queued one");
    let phy = bed.push(1, b"now", true).expect("sent at once");
    assert!(matches!(device.receive(&phy), Ok(Received::Data { .. })));
    let last = bed.ns("session.last_n_f_cnt_down");
    assert_eq!(bed.ns("session.last_conf_f_cnt_down"), last);
}

#[test]
fn an_application_server_without_the_key_asks_the_join_server() {
    let mut bed = Bed::new();
    let mut device = otaa(&mut bed.store, 1, MacVersion::V1_0_3);
    bed.join(&mut device);
    edit(&mut bed.store, Component::As, 1, |as_| path::clear(as_, "pending_session"));
    bed.send(&mut device, b"one", false);

    edit(&mut bed.store, Component::As, 1, |as_| path::clear(as_, "session"));
    edit(&mut bed.store, Component::Js, 1, |js| path::clear(js, "session"));
    let phy = device.uplink(7, b"two", false).expect("a session");
    let heard = bed.hear(&phy).expect("the Network Server takes it");
    assert!(matches!(heard.uplink, Uplink::Data { payload: Err(_), .. }), "{heard:?}");
}

#[test]
fn the_first_uplink_of_a_session_dates_it_and_counters_start_at_zero() {
    let mut bed = Bed::new();
    let mut device = abp(&mut bed.store, 1, MacVersion::V1_0_3, |_| {});
    let heard = bed.send(&mut device, b"one", true);
    assert!(matches!(heard.uplink, Uplink::Data { f_cnt: 0, .. }));
    assert!(matches!(device.receive(&heard.downlinks[0]), Ok(Received::Data { f_cnt: 0, .. })));
    let started =
        |bed: &Bed| fields::time(&records(&bed.store, 1).ns.expect("stored").0, "session.started_at");
    assert_eq!(started(&bed), None);

    let mut bed = Bed::new();
    let mut device = otaa(&mut bed.store, 1, MacVersion::V1_0_3);
    bed.join(&mut device);
    bed.send(&mut device, b"one", true);
    assert_eq!(started(&bed), Some(now()));
}

#[test]
fn before_1_0_4_a_counter_may_not_jump_far() {
    for (version, taken) in [(MacVersion::V1_0_3, false), (MacVersion::V1_0_4, true)] {
        let mut bed = Bed::new();
        let mut device = abp(&mut bed.store, 1, version, |_| {});
        for _ in 0..16_386 {
            device.uplink(7, b"lost", false).expect("a session");
        }
        let phy = device.uplink(7, b"heard", false).expect("a session");
        assert_eq!(bed.hear(&phy).is_ok(), taken, "{version:?}");
    }
}

#[test]
fn a_muted_join_takes_an_unused_session_away() {
    let mut bed = Bed::new();
    let mut device = otaa(&mut bed.store, 1, MacVersion::V1_0_3);
    bed.join(&mut device);
    mute(&mut bed.store, 1, true);
    bed.hear(&device.join_request().expect("joins")).expect("heard");
    let phy = device.uplink(7, b"one", false).expect("a session");
    let dropped = bed.hear(&phy);
    assert!(
        matches!(dropped, Err(Dropped::Rule("the pending session waits for its join-accept"))),
        "{dropped:?}"
    );
}

#[test]
fn a_1_1_device_must_rekey_after_its_join() {
    let mut bed = Bed::new();
    let mut device = otaa(&mut bed.store, 1, MacVersion::V1_1);
    bed.join(&mut device);
    let mut used = records(&bed.store, 1);
    for component in [Component::As, Component::Ns] {
        let record = &mut used.slot(component).as_mut().expect("stored").0;
        let session = path::child(record, "pending_session").expect("joined");
        path::set(record, "session", Value::Message(session));
    }
    let mut forgetful = SimDevice::from_records(&used).expect("whole");
    let dropped = bed.hear(&forgetful.uplink(7, b"one", false).expect("a session"));
    assert!(matches!(dropped, Err(Dropped::Rule(why)) if why.contains("RekeyInd")));
    bed.send(&mut device, b"one", false);
}

#[test]
fn a_join_server_before_1_0_4_forgets_old_dev_nonces_and_addresses_change() {
    let mut bed = Bed::new();
    bed.net = facts(0x13, "26000000/31");
    let mut device = otaa(&mut bed.store, 1, MacVersion::V1_0_3);
    let mut last = None;
    for _ in 0..12 {
        bed.join(&mut device);
        bed.send(&mut device, b"one", false);
        assert_ne!(device.dev_addr(), last, "another than the one in use");
        last = device.dev_addr();
    }
    let js = records(&bed.store, 1).js.expect("stored").0;
    let used = path::get(&js, "used_dev_nonces").expect("used").as_list().map(<[Value]>::len);
    assert_eq!(used, Some(10));
    assert_eq!(counter(&js, "last_join_nonce"), 12);
}

#[test]
fn in_1_1_the_application_has_a_counter_of_its_own() {
    let mut bed = Bed::new();
    let mut device = abp(&mut bed.store, 1, MacVersion::V1_1, |_| {});
    for n in 1..4 {
        bed.push(1, b"set", false);
        let heard = bed.send(&mut device, b"up", false);
        let got = device.receive(&heard.downlinks[0]);
        assert!(matches!(got, Ok(Received::Data { f_cnt, .. }) if f_cnt == n), "{got:?}");
    }
    assert_eq!((bed.ns("session.last_n_f_cnt_down"), bed.as_("session.last_a_f_cnt_down")), (0, 3));

    // What is queued has been counted, but not been sent: a device of these records waits for it.
    bed.push(1, b"queued", false);
    assert_eq!(bed.as_("session.last_a_f_cnt_down"), 4);
    let mut twin = SimDevice::from_records(&records(&bed.store, 1)).expect("whole");
    let heard = bed.send(&mut twin, b"up", false);
    assert!(matches!(twin.receive(&heard.downlinks[0]), Ok(Received::Data { f_cnt: 4, .. })));
}

#[test]
fn a_new_downlink_is_counted_behind_the_queue() {
    let mut bed = Bed::new();
    let mut device = abp(&mut bed.store, 1, MacVersion::V1_0_3, |_| {});
    bed.push(1, b"first", false);
    edit(&mut bed.store, Component::As, 1, |as_| path::clear(as_, "session.last_a_f_cnt_down"));
    bed.push(1, b"second", false);
    for expected in [&b"first"[..], b"second"] {
        let heard = bed.send(&mut device, b"up", false);
        let got = device.receive(&heard.downlinks[0]);
        assert!(matches!(&got, Ok(Received::Data { payload, .. }) if payload == expected), "{got:?}");
    }
}

#[test]
fn a_device_acknowledges_a_confirmed_downlink() {
    for version in VERSIONS {
        let mut bed = Bed::new();
        let mut device = abp(&mut bed.store, 1, version, |_| {});
        bed.push(1, b"confirm", true);
        let heard = bed.send(&mut device, b"up", false);
        device.receive(&heard.downlinks[0]).expect("fresh");
        let pending = |bed: &Bed| {
            path::has(&records(&bed.store, 1).ns.expect("stored").0, "mac_state.pending_application_downlink")
        };
        assert!(pending(&bed));
        bed.send(&mut device, b"up", false);
        assert!(!pending(&bed));
        let ns = records(&bed.store, 1).ns.expect("stored").0;
        let last = list(&ns, "mac_state.recent_uplinks").pop().expect("heard");
        assert!(path::flag(&last, "payload.mac_payload.f_hdr.f_ctrl.ack"), "{version:?}");
    }
}

#[test]
fn two_networks_that_both_answer_are_found_out() {
    use std::sync::Arc;
    let (one, two) = (
        Arc::new(SharedNetwork::new(facts(0x13, "26000000/7"))),
        Arc::new(SharedNetwork::new(facts(0, "00000000/7"))),
    );
    let mut device = otaa(&mut one.store.lock().expect("free"), 1, MacVersion::V1_0_3);
    otaa(&mut two.store.lock().expect("free"), 1, MacVersion::V1_0_3);
    let mut ether = Ether::new(now);
    ether.add("source", one.clone());
    ether.add("target", two.clone());
    assert!(matches!(ether.join(&mut device), Err(EtherError::Twice(names)) if names.len() == 2));

    mute(&mut one.store.lock().expect("free"), 1, true);
    let answer = ether.join(&mut device).expect("one answers");
    assert_eq!(answer.answered_by.as_deref(), Some("target"));
    let answer = ether.uplink(&mut device, 7, b"hello", true).expect("one answers");
    assert_eq!(answer.payload_at("target"), Some(&b"hello"[..]));
    assert!(matches!(answer.heard[0].1, Err(Dropped::Rule(_))));
    let down = Downlink { f_port: 3, payload: b"x", confirmed: false };
    assert!(ether.downlink("target", &mut device, down).expect("queued").is_none());
    assert!(matches!(ether.downlink("moon", &mut device, down), Err(EtherError::Unknown(_))));
}
