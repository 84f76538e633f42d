//! The counters of a device that is handed over never go back, neither there nor back (S4).

use proptest::prelude::*;

use super::*;
use crate::{
    map::ttn_v2::{
        V2Device, cleared, f_cnt_down_of,
        generate::{device, same},
        last_n_f_cnt_down, records,
    },
    model::device::Records,
    plan::{
        compare::A_F_CNT_DOWN,
        handover::{
            AfterClear, MARGIN, after_clear, back, count, has_joined, has_returned, lost_its_keys,
            skip_downlinks, with_counts_of,
        },
        transform::{Copy, Write},
    },
};

/// What a target has of the device after it was written.
fn on_target(device: &V2Device) -> Records {
    records(device, &[7; 16])
}

fn copy_of(records: &Records) -> Copy {
    let write =
        |record: &Option<Record>| record.as_ref().map(|r| Write { message: r.0.clone(), paths: Vec::new() });
    Copy { ns: write(&records.ns), as_: write(&records.as_), ..Copy::default() }
}

fn set_counts(records: &mut Records, up: u32, down: u32) {
    if let Some(ns) = &mut records.ns {
        path::set(&mut ns.0, "session.last_f_cnt_up", Value::U32(up));
        path::set(&mut ns.0, "session.last_n_f_cnt_down", Value::U32(down));
    }
    if let Some(as_) = &mut records.as_ {
        path::set(&mut as_.0, A_F_CNT_DOWN, Value::U32(down));
    }
}

fn with_counts(device: &V2Device, up: u32, down: u32) -> V2Device {
    let mut message = device.message().clone();
    path::set(&mut message, "lorawan_device.f_cnt_up", Value::U32(up));
    path::set(&mut message, "lorawan_device.f_cnt_down", Value::U32(down));
    V2Device::new(message)
}

fn with_session() -> impl Strategy<Value = V2Device> {
    device().prop_filter("it has a whole session", |d| d.has_session() && d.app_s_key().is_some())
}

proptest! {
    // A device is drawn in milliseconds: a build that is not optimised must not spend its day here.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_target_goes_on_with_the_larger_counters(d in with_session(), up: u32, down in 0u32..u32::MAX - MARGIN) {
        let mut there = on_target(&d);
        let mut copy = copy_of(&there);
        set_counts(&mut there, up, down);
        count(&mut copy, &d, there.ns.as_ref().expect("a session"), MARGIN);
        let ns = &copy.ns.expect("a session").message;
        let counted = |at: &str| path::number(ns, at);
        prop_assert_eq!(counted("session.last_f_cnt_up"), u64::from(up.max(d.f_cnt_up())));
        let next = counted("session.last_n_f_cnt_down");
        prop_assert!(next >= u64::from(down), "what the target has sent is sent again");
        prop_assert!(
            next >= u64::from(last_n_f_cnt_down(d.f_cnt_down()).saturating_add(MARGIN)),
            "what the source has sent is sent again"
        );
        prop_assert_eq!(path::number(&copy.as_.expect("a session").message, A_F_CNT_DOWN), next);
    }

    #[test]
    fn v2_gets_back_counters_that_are_not_lower_than_either_sides(
        d in with_session(), up: u32, down in 0u32..u32::MAX - 1, here_up: u32, here_down in 0u32..u32::MAX - MARGIN,
    ) {
        let mut there = on_target(&d);
        set_counts(&mut there, up, down);
        let given = back(&d, &there).expect("it can return").device;
        prop_assert!(given.f_cnt_up() >= up.max(d.f_cnt_up()));
        prop_assert!(given.f_cnt_down() >= f_cnt_down_of(down).max(d.f_cnt_down()));
        // Its session may have gone on at V2 meanwhile.
        let now = with_counts(&d, here_up, here_down);
        let written = with_counts_of(&given, &now, &d);
        prop_assert!(written.f_cnt_up() >= given.f_cnt_up().max(here_up));
        prop_assert!(written.f_cnt_down() >= given.f_cnt_down().max(here_down));
        prop_assert!(has_returned(&given, &written), "what was written counts as returned");
        prop_assert!(!has_joined(&given, &written));
    }

    #[test]
    fn a_device_that_was_never_on_the_target_gets_back_what_it_had(d in device()) {
        let given = back(&d, &Records::default()).expect("it can return").device;
        prop_assert_eq!((given.app_key(), given.dev_addr(), given.nwk_s_key()), (d.app_key(), d.dev_addr(), d.nwk_s_key()));
        prop_assert_eq!((given.f_cnt_up(), given.f_cnt_down()), (d.f_cnt_up(), d.f_cnt_down()));
        prop_assert!(has_returned(&given, &given));
    }

    #[test]
    fn a_session_of_the_target_goes_back_as_a_whole(d in with_session(), other in with_session()) {
        prop_assume!(d.dev_addr() != other.dev_addr());
        let there = on_target(&other);
        let given = back(&d, &there).expect("it can return").device;
        prop_assert_eq!(given.dev_addr(), other.dev_addr());
        prop_assert_eq!(given.nwk_s_key(), other.nwk_s_key());
        prop_assert_eq!(given.app_s_key(), other.app_s_key());
        prop_assert_eq!(given.app_key(), d.app_key(), "the root key is the source's own");
        prop_assert!(!has_returned(&given, &d) || d.is_otaa(), "the old session is not the new one");
        prop_assert!(given.f_cnt_up() >= other.f_cnt_up());
    }

    #[test]
    fn only_counters_change_when_downlinks_are_skipped(d in device()) {
        let mut message = d.message().clone();
        skip_downlinks(&mut message);
        let skipped = V2Device::new(message);
        prop_assert!(same(with_counts(&skipped, 0, 0).message(), with_counts(&d, 0, 0).message()));
        prop_assert!(skipped.f_cnt_up() == d.f_cnt_up() && skipped.f_cnt_down() >= d.f_cnt_down());
    }

    #[test]
    fn a_clear_is_judged_by_what_is_there(d in device(), session: bool) {
        prop_assume!(d.is_otaa() || d.is_abp() && session);
        prop_assert!(matches!(after_clear(&d, &d, session), AfterClear::Live), "nothing was written");
        prop_assert!(!lost_its_keys(&d, &d));
        let gone = V2Device::new(cleared(d.message(), session));
        let gone = if session { gone } else { kept_session(&gone, &d) };
        prop_assert!(matches!(after_clear(&d, &gone, session), AfterClear::Cleared));
        prop_assert!(lost_its_keys(&d, &gone));
    }

    #[test]
    fn a_join_in_the_moment_of_the_clear_gets_counters_that_the_device_takes(
        d in device(), other in with_session(), up: u32, down: u32,
    ) {
        prop_assume!(d.is_otaa() && d.dev_addr() != other.dev_addr());
        let gone = V2Device::new(cleared(d.message(), false));
        // As it was written over the new session, and as V2 went on from there.
        let over = with_counts(&kept_session(&gone, &other), d.f_cnt_up(), down);
        let AfterClear::Joined(Some(fixed)) = after_clear(&d, &over, false) else { panic!("it has joined") };
        prop_assert!(!fixed.is_otaa() && fixed.dev_addr().is_none(), "the session's fields are absent: kept");
        prop_assert_eq!(fixed.f_cnt_up(), if d.has_session() { 0 } else { d.f_cnt_up() }, "its uplinks are taken");
        prop_assert!(fixed.f_cnt_down() >= MARGIN && fixed.f_cnt_down() < 16_384, "its downlinks are taken");
        // What V2 has counted in the new session itself stays.
        let went_on = with_counts(&over, up, down);
        prop_assume!(up != d.f_cnt_up());
        let AfterClear::Joined(Some(fixed)) = after_clear(&d, &went_on, false) else { panic!("it has joined") };
        prop_assert_eq!(fixed.f_cnt_up(), up);
        // Stored after a write that took the session too, it has counters of its own.
        if d.has_session() {
            prop_assert!(matches!(after_clear(&d, &went_on, true), AfterClear::Joined(None)));
        }
    }

    #[test]
    fn a_session_that_v2_has_got_itself_is_not_written_over(d in device(), other in with_session()) {
        prop_assume!(d.is_otaa() && d.dev_addr() != other.dev_addr());
        let given = back(&d, &Records::default()).expect("it can return").device;
        let now = kept_session(&V2Device::new(cleared(d.message(), false)), &other);
        let now = with_counts(&now, 7, 3);
        let written = with_counts_of(&given, &now, &d);
        prop_assert!(written.dev_addr().is_none() && written.nwk_s_key().is_none(), "absent: kept");
        prop_assert_eq!(written.app_key(), d.app_key());
        prop_assert!(written.f_cnt_up() == 7 && written.f_cnt_down() >= 3);
        // Unless the target's is newer.
        let there = on_target(&other);
        let from_target = back(&d, &there).expect("it can return").device;
        let mut third = other.message().clone();
        path::set(&mut third, "lorawan_device.nwk_s_key", Value::Bytes(vec![9; 16].into()));
        let third = V2Device::new(third);
        prop_assert_eq!(with_counts_of(&from_target, &third, &d).nwk_s_key(), other.nwk_s_key());
    }
}

/// `device` with the session of `of`: what a message without the session's fields leaves at V2.
fn kept_session(device: &V2Device, of: &V2Device) -> V2Device {
    let mut message = device.message().clone();
    for field in ["dev_addr", "nwk_s_key", "app_s_key"] {
        let at = format!("lorawan_device.{field}");
        path::set(&mut message, &at, Value::Bytes(path::bytes(of.message(), &at).into()));
    }
    V2Device::new(message)
}
