//! From V2, which cannot be muted, to a The Things Stack: mute-target.

use super::*;
use crate::{
    proto,
    rehearsal::ttn_v2::{
        TtnV2,
        samples::{KEY, bytes, full, identifier, v2},
    },
};

/// A device at V2 that is on its way to a target.
struct Way {
    v2: Arc<TtnV2>,
    target: SharedNetwork,
    ether: Ether,
    auditor: Auditor,
    device: SimDevice,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// OTAA, and its session goes along.
    Kept,
    /// OTAA, and its session stays behind until it joins the target.
    Dropped,
    /// ABP.
    Abp,
}

use Kind::{Abp, Dropped, Kept};

const ALL: [Kind; 3] = [Kept, Dropped, Abp];
const KEYS: [&str; 4] = ["app_key", "app_s_key", "nwk_s_key", "dev_addr"];

fn lorawan(field: &str) -> String {
    format!("lorawan_device.{field}")
}

fn zero(device: &mut DynamicMessage, field: &str) {
    path::set(device, &lorawan(field), bytes(0, if field == "dev_addr" { 4 } else { 16 }));
}

impl Way {
    fn new(kind: Kind) -> Self {
        let v2 = v2();
        let mut device = full("a1");
        path::clear(&mut device, "lorawan_device.disable_f_cnt_check");
        if kind == Abp {
            zero(&mut device, "app_key");
        }
        v2.set(device).expect("created");
        let target = SharedNetwork::new(facts(0, "00000000/7"));
        let mut ether = Ether::new(Timestamp::now);
        ether.add("v2", Arc::<TtnV2>::clone(&v2));
        ether.add("target", Arc::new(target.clone()));
        let auditor = Auditor::new(Terms::default());
        auditor.attach(Source, &mut v2.store(), None);
        auditor.attach(Target, &mut lock(&target), None);
        let device = SimDevice::from_v2(&v2.get("a1").expect("there")).expect("whole");
        let mut way = Self { v2, target, ether, auditor, device, kind };
        way.traffic();
        way
    }

    /// The device sends, and wants an answer.
    fn traffic(&mut self) {
        for confirmed in [true, false] {
            self.ether.uplink(&mut self.device, 5, b"data", confirmed).expect("one answer at most");
        }
    }

    fn read(&self) -> DynamicMessage {
        self.v2.get("a1").expect("there")
    }

    /// The records at the target, muted.
    fn records(&self) -> Vec<(Component, DynamicMessage)> {
        let read = self.read();
        let held = |field: &str| Value::Bytes(path::bytes(&read, &lorawan(field)).into());
        let mut ids = proto::message("EndDevice");
        path::set(&mut ids, "ids.device_id", Value::String(samples::device_id(1)));
        let application = "ids.application_ids.application_id";
        path::set(&mut ids, application, Value::String(samples::APPLICATION.into()));
        path::set(&mut ids, "ids.dev_eui", held("dev_eui"));
        path::set(&mut ids, "ids.join_eui", held("app_eui"));
        let (mut js, mut as_, mut ns) = (ids.clone(), ids.clone(), ids.clone());
        path::set(&mut js, "root_keys.app_key.key", held("app_key"));
        path::set(&mut ns, "supports_join", Value::Bool(self.kind != Abp));
        path::set(&mut ns, "lorawan_version", Value::EnumNumber(MacVersion::V1_0_2.number()));
        path::set(&mut ns, "frequency_plan_id", Value::String("EU_863_870_TTN".into()));
        path::set_wrapped(&mut ns, "mac_settings.supports_32_bit_f_cnt", Value::Bool(true));
        path::set_wrapped(&mut ns, "mac_settings.schedule_downlinks", Value::Bool(false));
        if self.kind != Dropped {
            path::set(&mut as_, "session.dev_addr", held("dev_addr"));
            path::set(&mut as_, "session.keys.app_s_key.key", held("app_s_key"));
            path::set(&mut ns, "session.dev_addr", held("dev_addr"));
            path::set(&mut ns, "session.keys.f_nwk_s_int_key.key", held("nwk_s_key"));
            let state = samples::mac_state(&ns);
            path::set(&mut ns, "mac_state", Value::Message(state));
        }
        let mut all = vec![(Is, ids), (As, as_), (Ns, ns)];
        if self.kind != Abp {
            all.push((Js, js));
        }
        all
    }

    fn create(&self) {
        self.put(&[Is, Js, As, Ns]);
    }

    fn put(&self, components: &[Component]) {
        let records = self.records().into_iter().filter(|(component, _)| components.contains(component));
        for (component, record) in records {
            lock(&self.target).put(Table::of(component), &key_of(1), record).expect("memory");
        }
    }

    fn edit(&self, component: Component, change: impl FnOnce(&mut DynamicMessage)) {
        samples::edit(&mut lock(&self.target), component, 1, change);
    }

    /// The read immediately before the clear, and the clear.
    fn clear(&self) -> DynamicMessage {
        let read = self.read();
        let mut cleared = read.clone();
        for field in KEYS {
            match field {
                "app_key" => zero(&mut cleared, field),
                _ if self.kind == Dropped => path::clear(&mut cleared, &lorawan(field)),
                _ => zero(&mut cleared, field),
            }
        }
        self.v2.set(cleared).expect("cleared");
        read
    }

    /// Counters as of the read, with a margin.
    fn count(&self, read: &DynamicMessage, margin: u64) {
        if self.kind == Dropped {
            return;
        }
        let n = |field: &str| path::number(read, &lorawan(field));
        let number = |n: u64| Value::U32(u32::try_from(n).expect("32 bits"));
        let down = n("f_cnt_down") - 1 + margin;
        self.edit(Ns, |ns| {
            path::set(ns, "session.last_f_cnt_up", number(n("f_cnt_up")));
            path::set(ns, "session.last_n_f_cnt_down", number(down));
        });
        self.edit(As, |as_| path::set(as_, "session.last_a_f_cnt_down", number(down)));
    }

    fn mute(&self, muted: bool) {
        samples::mute(&mut lock(&self.target), 1, muted);
    }

    fn promises(&self) -> Vec<Promise> {
        self.auditor.finish().iter().map(|b| b.promise).collect()
    }
}

#[test]
fn a_correct_migration_from_v2_is_quiet_and_the_device_is_alive_on_the_target() {
    for kind in ALL {
        for busy in [false, true] {
            let mut way = Way::new(kind);
            let traffic = |way: &mut Way| {
                if busy {
                    way.traffic()
                }
            };
            way.create();
            traffic(&mut way);
            traffic(&mut way);
            let read = way.clear();
            traffic(&mut way);
            way.count(&read, 16);
            traffic(&mut way);
            way.mute(false);
            assert_eq!(way.auditor.finish(), [], "{kind:?}");
            if kind == Dropped {
                // Its old session goes on at the source until then.
                let answer = way.ether.uplink(&mut way.device, 5, b"data", true).expect("one answer");
                assert_eq!(answer.answered_by.as_deref(), Some("v2"));
                let answer = way.ether.join(&mut way.device).expect("one answer");
                assert_eq!(answer.answered_by.as_deref(), Some("target"));
            }
            let proof = prove_alive(&way.ether, &mut way.device).expect("alive");
            assert_eq!((proof.network.as_str(), proof.joined), ("target", kind != Abp), "{kind:?}");
            assert_eq!(way.auditor.finish(), [], "{kind:?}");
        }
    }
}

#[test]
fn s1_fires_when_v2_is_cleared_before_the_target_holds_everything() {
    for kind in ALL {
        // Any number of records, but not all of them.
        for created in 0..Way::new(kind).records().len() {
            let way = Way::new(kind);
            for (component, record) in way.records().into_iter().take(created) {
                lock(&way.target).put(Table::of(component), &key_of(1), record).expect("memory");
            }
            assert_eq!(way.auditor.breaches(), [], "{kind:?} {created}");
            way.clear();
            let breaches = way.auditor.breaches();
            assert!(!breaches.is_empty(), "{kind:?} {created}");
            assert!(breaches.iter().all(|b| b.promise == Promise::S1), "{breaches:?}");
        }
    }
}

#[test]
fn s1_fires_for_each_single_key_and_for_a_delete() {
    for field in KEYS {
        let way = Way::new(Kept);
        let mut device = way.read();
        zero(&mut device, field);
        way.v2.set(device).expect("cleared");
        assert!(way.promises().contains(&Promise::S1), "{field}");
    }
    let way = Way::new(Kept);
    let delete = identifier("fleet", Some("a1"));
    way.v2.manager("DeleteDevice", delete, &[("key", KEY)]).expect("deleted");
    assert!(way.promises().contains(&Promise::S1));
}

#[test]
fn s1_fires_when_the_target_holds_another_key_or_session() {
    type Plant = (Kind, Component, &'static str);
    let plants: [Plant; 6] = [
        (Kept, Js, "root_keys.app_key.key"),
        (Dropped, Js, "root_keys.app_key.key"),
        (Kept, As, "session.keys.app_s_key.key"),
        (Abp, As, "session.keys.app_s_key.key"),
        (Abp, Ns, "session.keys.f_nwk_s_int_key.key"),
        (Abp, Ns, "mac_settings.supports_32_bit_f_cnt"),
    ];
    for (kind, component, at) in plants {
        let way = Way::new(kind);
        way.create();
        way.edit(component, |record| match at.starts_with("mac_settings") {
            true => path::set_wrapped(record, at, Value::Bool(false)),
            false => samples_bytes(record, at, 9),
        });
        way.clear();
        assert!(way.promises().contains(&Promise::S1), "{kind:?} {at}");
    }
    let way = Way::new(Abp);
    way.create();
    way.edit(Ns, |ns| path::clear(ns, "session"));
    way.clear();
    assert!(way.promises().contains(&Promise::S1), "an ABP device without its session");
}

#[test]
fn s2_fires_when_a_key_is_live_on_v2_and_on_the_target() {
    for kind in ALL {
        let what = if kind == Abp { "session" } else { "root key" };
        // Unmuted before the clear.
        let way = Way::new(kind);
        way.create();
        assert_eq!(way.auditor.breaches(), [], "{kind:?}: muted");
        way.mute(false);
        let breaches = way.auditor.breaches();
        let twice = breaches.iter().filter(|b| b.promise == Promise::S2).collect::<Vec<_>>();
        assert!(twice.iter().any(|b| b.what.contains(what)), "{kind:?}: {breaches:?}");

        // Restored at V2 while the target lives.
        let way = Way::new(kind);
        way.create();
        let read = way.clear();
        way.count(&read, 16);
        way.mute(false);
        assert_eq!(way.auditor.breaches(), [], "{kind:?}");
        way.v2.set(read).expect("restored");
        assert!(way.promises().contains(&Promise::S2), "{kind:?}");
    }
}

#[test]
fn s2_allows_a_dropped_session_to_stay_and_no_other() {
    // The AppKey alone is cleared, but the target holds the session as well.
    let way = Way::new(Kept);
    way.create();
    let mut device = way.read();
    zero(&mut device, "app_key");
    way.v2.set(device).expect("cleared");
    way.count(&way.read(), 16);
    way.mute(false);
    let breaches = way.auditor.breaches();
    assert!(breaches.iter().any(|b| b.promise == Promise::S2 && b.what.contains("session")), "{breaches:?}");

    // The session alone is cleared, but the root key stays.
    let way = Way::new(Dropped);
    way.create();
    let mut device = way.read();
    KEYS[1..].iter().for_each(|field| zero(&mut device, field));
    way.v2.set(device).expect("cleared");
    way.mute(false);
    let breaches = way.auditor.breaches();
    assert!(breaches.iter().any(|b| b.promise == Promise::S2 && b.what.contains("root key")), "{breaches:?}");
}

#[test]
fn s3_fires_when_the_target_stays_muted_or_has_nothing() {
    for kind in ALL {
        let way = Way::new(kind);
        way.create();
        assert_eq!(way.promises(), [], "{kind:?}: V2 still serves it");
        let read = way.clear();
        way.count(&read, 16);
        assert_eq!(way.auditor.breaches(), [], "{kind:?}: it may still go on");
        assert_eq!(way.promises(), [Promise::S3], "{kind:?}");
    }
}

#[test]
fn s4_fires_when_the_target_starts_below_what_v2_had_at_the_clear() {
    let cases: [(i64, i64, bool); 5] =
        [(0, 0, true), (1, 16, true), (-1, 0, false), (0, -1, false), (-1, -1, false)];
    for kind in [Kept, Abp] {
        for (up, down, fine) in cases {
            let mut way = Way::new(kind);
            way.create();
            way.traffic();
            let mut read = way.clear();
            for (field, by) in [("f_cnt_up", up), ("f_cnt_down", down)] {
                let n = path::number(&read, &lorawan(field));
                let n = u32::try_from(n.checked_add_signed(by).expect("above zero")).expect("32 bits");
                path::set(&mut read, &lorawan(field), Value::U32(n));
            }
            way.count(&read, 0);
            assert_eq!(way.auditor.breaches(), [], "{kind:?}: muted, it may still be raised");
            way.mute(false);
            let breaches = way.auditor.breaches();
            assert_eq!(breaches.is_empty(), fine, "{kind:?} {up} {down}: {breaches:?}");
            assert!(breaches.iter().all(|b| b.promise == Promise::S4), "{breaches:?}");
        }
    }
}

#[test]
fn s4_fires_when_a_message_leaves_the_counters_out() {
    for field in ["f_cnt_up", "f_cnt_down"] {
        let way = Way::new(Kept);
        let mut device = way.read();
        path::clear(&mut device, &lorawan(field));
        way.v2.set(device).expect("set");
        assert_eq!(way.promises()[0], Promise::S4, "{field}");
    }
    // Where no counter is checked, none goes back.
    let way = Way::new(Abp);
    let mut device = way.read();
    path::set(&mut device, "lorawan_device.disable_f_cnt_check", Value::Bool(true));
    way.v2.set(device.clone()).expect("set");
    path::clear(&mut device, "lorawan_device.f_cnt_up");
    way.v2.set(device).expect("set");
    assert_eq!(way.auditor.breaches(), []);
}

#[test]
fn a_rollback_to_v2_is_watched_the_other_way_round() {
    for kind in ALL {
        for (behind, fine) in [(0, true), (1, kind == Dropped)] {
            let mut way = Way::new(kind);
            way.create();
            let original = way.clear();
            way.count(&original, 16);
            way.mute(false);
            if kind != Dropped {
                way.traffic();
            }
            way.auditor.protect(Target);
            way.mute(true);
            let ns = samples::records(&lock(&way.target), 1).ns.expect("there").0;
            let mut restored = original.clone();
            if kind != Dropped {
                let n = |at: &str| u32::try_from(path::number(&ns, at)).expect("32 bits");
                let up = n("session.last_f_cnt_up");
                let down = n("session.last_n_f_cnt_down") + 1 - behind;
                path::set(&mut restored, "lorawan_device.f_cnt_up", Value::U32(up));
                path::set(&mut restored, "lorawan_device.f_cnt_down", Value::U32(down));
            }
            way.v2.set(restored).expect("restored");
            for component in [Ns, As, Js, Is] {
                lock(&way.target).remove(Table::of(component), &key_of(1)).expect("memory");
            }
            assert_eq!(
                way.auditor.finish().is_empty(),
                fine,
                "{kind:?} {behind}: {:?}",
                way.auditor.breaches()
            );
            if fine {
                let proof = prove_alive(&way.ether, &mut way.device).expect("alive");
                assert_eq!(proof.network, "v2", "{kind:?}");
            }
        }
        // Nothing is restored.
        let way = Way::new(kind);
        way.create();
        let read = way.clear();
        way.count(&read, 16);
        way.mute(false);
        way.auditor.protect(Target);
        lock(&way.target).remove(Table::Ns, &key_of(1)).expect("memory");
        assert!(way.promises().contains(&Promise::S1), "{kind:?}");
    }
}

#[test]
fn s1_fires_when_a_session_that_came_by_a_join_at_v2_is_cleared_unseen() {
    for updated in [false, true] {
        let mut way = Way::new(Kept);
        way.create();
        way.ether.join(&mut way.device).expect("V2 answers");
        way.traffic();
        if updated {
            // Not the JS: the muted target has used up a JoinNonce for the same join-request.
            way.put(&[As, Ns]);
        }
        let read = way.clear();
        let breaches = way.auditor.breaches();
        assert_eq!(breaches.is_empty(), updated, "{breaches:?}");
        assert!(breaches.iter().all(|b| b.promise == Promise::S1), "{breaches:?}");
        if updated {
            way.count(&read, 16);
            way.mute(false);
            let proof = prove_alive(&way.ether, &mut way.device).expect("alive");
            assert_eq!(proof.network, "target");
            assert_eq!(way.auditor.finish(), []);
        }
    }
}

#[test]
fn devices_that_were_there_before_are_watched_too_and_each_application_for_itself() {
    let v2 = v2();
    v2.load_devices(crate::rehearsal::ttn_v2::samples::FLEET, "fleet").expect("a listing");
    for (application, breaches) in [(None, true), (Some("fleet"), true), (Some("flee"), false)] {
        let auditor = Auditor::new(Terms::default());
        auditor.attach(Source, &mut v2.store(), application);
        let mut device = v2.get("abp-003").expect("there");
        let original = device.clone();
        zero(&mut device, "nwk_s_key");
        v2.set(device).expect("set");
        assert_eq!(!auditor.breaches().is_empty(), breaches, "{application:?}");
        v2.set(original).expect("restored");
    }
}
