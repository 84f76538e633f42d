//! The counters of a device that is handed over never go back, neither there nor back (S4).

use proptest::prelude::*;

use super::*;
use crate::{
    map::ttn_v2::{
        V2Device, f_cnt_down_of,
        generate::{device, same},
        last_n_f_cnt_down, records,
    },
    model::device::Records,
    plan::{
        compare::A_F_CNT_DOWN,
        handover::{
            MARGIN, back, begin_session, count, has_joined, has_returned, skip_downlinks, with_counts_of,
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
    #![proptest_config(ProptestConfig::with_cases(64))]

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
        let written = with_counts_of(&given, &now);
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
    fn only_counters_change_when_downlinks_are_skipped_or_a_session_begins(d in device()) {
        for change in [skip_downlinks, begin_session] {
            let mut message = d.message().clone();
            change(&mut message);
            let changed = V2Device::new(message);
            prop_assert!(same(with_counts(&changed, 0, 0).message(), with_counts(&d, 0, 0).message()));
        }
        let mut message = d.message().clone();
        skip_downlinks(&mut message);
        let skipped = V2Device::new(message);
        prop_assert!(skipped.f_cnt_up() == d.f_cnt_up() && skipped.f_cnt_down() >= d.f_cnt_down());
    }
}
