//! S4.

use super::*;

#[test]
fn s4_fires_when_a_counter_or_nonce_goes_back_on_the_way() {
    let plants: [(usize, Component, &str); 9] = [
        (0, Ns, "session.last_f_cnt_up"),
        (2, Ns, "session.last_n_f_cnt_down"),
        (2, Ns, "session.last_conf_f_cnt_down"),
        (2, As, "session.last_a_f_cnt_down"),
        (0, As, "session.last_a_f_cnt_down"),
        (3, Ns, "session.last_n_f_cnt_down"),
        (1, Js, "last_dev_nonce"),
        (2, Js, "last_join_nonce"),
        (0, Js, "used_dev_nonces"),
    ];
    for (kind, component, at) in plants {
        let mut bed = Bed::new(KINDS[kind].1);
        let n = bed.auditor.breaches().len();
        bed.edit(Source, component, |r| raise(r, at));
        let create: Vec<Step> = MUTE_SOURCE[..4].to_vec();
        bed.steps(&create);
        if component == Ns {
            bed.edit(Source, Ns, |_| {});
            let Record(mut record) = samples::records(&lock(&bed.source), 1).ns.expect("stored");
            path::clear(&mut record, "mac_settings.schedule_downlinks");
            path::clear(&mut record, at);
            lock(&bed.target).put(Table::Ns, &key_of(1), record).expect("memory");
        } else {
            bed.edit(Target, component, |r| path::clear(r, at));
            // The target itself stored more a moment ago: that alone is a step back.
            assert_eq!(bed.auditor.breaches().len(), n + 1, "{at}");
            bed.step(Create(Ns));
        }
        let breaches = bed.auditor.breaches();
        assert!(breaches.iter().all(|b| b.promise == Promise::S4), "{breaches:?}");
        assert!(breaches.iter().any(|b| b.what.contains(at)), "{at}: {breaches:?}");
    }
}

fn raise(record: &mut DynamicMessage, at: &str) {
    let value = if at == "used_dev_nonces" {
        Value::List(vec![Value::U32(4711)])
    } else {
        Value::U32(u32::try_from(path::number(record, at)).expect("32 bits") + 9)
    };
    // Nonces of joins so far stay: only more may be there.
    let value = match (path::get(record, at).map(|v| v.into_owned()), value) {
        (Some(Value::List(old)), Value::List(new)) => Value::List([old, new].concat()),
        (_, value) => value,
    };
    path::set(record, at, value);
}

#[test]
fn s4_fires_when_the_target_starts_from_an_old_copy() {
    // A copy from before the mute: the source has sent since.
    for (kind, make) in KINDS.into_iter().filter(|(kind, _)| *kind != "multicast") {
        let mut bed = Bed::new(make);
        let old = samples::records(&lock(&bed.source), 1);
        bed.traffic();
        bed.step(Mute(Source));
        restore(&bed.target, &old);
        let breaches = bed.auditor.breaches();
        assert!(breaches.iter().any(|b| b.promise == Promise::S4), "{kind}: {breaches:?}");
    }
}

#[test]
fn s4_knows_what_a_muted_side_counts_alone() {
    // The muted source hears uplinks and consumes nonces after the last read: the target may start below.
    let mut bed = Bed::new(KINDS[0].1);
    bed.step(Mute(Source));
    let seal = samples::records(&lock(&bed.source), 1);
    bed.ether.join(&mut bed.device).expect("nobody answers");
    bed.traffic();
    restore(&bed.target, &seal);
    assert_eq!(bed.auditor.breaches(), []);
    bed.steps(&MUTE_SOURCE[5..]);
    assert_eq!(bed.auditor.finish(), []);
    prove_alive(&bed.ether, &mut bed.device).expect("alive");
}

#[test]
fn s4_excuses_a_device_that_is_reset_by_hand_and_no_other() {
    for reset in [true, false] {
        let who = BTreeSet::from([samples::dev_eui(if reset { 1 } else { 2 })]);
        let mut bed = Bed::with(KINDS[3].1, Terms { reset: who, ..Terms::default() });
        bed.steps(&MUTE_SOURCE[..4]);
        let Record(mut record) = samples::records(&lock(&bed.source), 1).ns.expect("stored");
        for at in ["mac_settings.schedule_downlinks", "session.last_f_cnt_up", "session.last_n_f_cnt_down"] {
            path::clear(&mut record, at);
        }
        lock(&bed.target).put(Table::Ns, &key_of(1), record).expect("memory");
        assert_eq!(bed.auditor.breaches().is_empty(), reset);
    }
}

#[test]
fn s4_knows_what_servers_take_back_themselves() {
    // A device that resets its counters, as its record says it does.
    let mut bed = Bed::new(KINDS[5].1);
    bed.device.power_cycle();
    let phy = bed.device.uplink(5, b"zero", false).expect("a session");
    let facts = bed.source.facts.clone();
    crate::rehearsal::air::uplink(&mut lock(&bed.source), &facts, samples::now(), &phy).expect("heard");
    assert_eq!(bed.auditor.breaches(), []);

    // An AS of 1.0.x that has counted what never was sent.
    let mut bed = Bed::new(KINDS[3].1);
    bed.edit(Source, As, |r| path::set(r, "session.last_a_f_cnt_down", Value::U32(60)));
    bed.traffic();
    let Record(as_) = samples::records(&lock(&bed.source), 1).as_.expect("stored");
    assert_eq!(path::number(&as_, "session.last_a_f_cnt_down"), 1);
    assert_eq!(bed.auditor.breaches(), []);

    // A Join Server that remembers ten DevNonces.
    let mut bed = Bed::new(KINDS[0].1);
    for _ in 0..12 {
        bed.ether.join(&mut bed.device).expect("joins");
    }
    assert_eq!(bed.auditor.breaches(), []);
}
