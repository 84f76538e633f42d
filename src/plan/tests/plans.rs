//! The plan of an application: IDs, clashes, order, what is there already, and the calls that it predicts.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::{
    model::ids::{DeviceId, is_id},
    plan::{self, ApplicationPlan, Begun, DevicePlan, Input, MUTE, Plan, Verdict, identity, session::Carry},
    step::{self, Mute, Next, Recipe, State, Step},
};

fn input(seed: u64) -> Input {
    let found = generated(seed);
    Input { id: DeviceId::unchecked(transform::device_id(&found)), found, begun: None, holder: None }
}

fn plan_of(inputs: &[Input], existing: &HashMap<String, Record>) -> Vec<DevicePlan> {
    let mut wishes = wishes(SessionMode::Keep);
    wishes.allowed = vec![Kind::PendingSession];
    plan::devices(inputs, existing, &facts(), &wishes)
}

/// Gives all records of a device another ID.
fn rename(input: &mut Input, id: &str) {
    for component in Component::ALL {
        if let Some(Record(message)) = input.found.records.slot(component) {
            path::set(message, "ids.device_id", text(id));
        }
    }
    input.id = DeviceId::unchecked(id);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_id_is_taken_over_or_refused_with_one_that_would_do(id in "[a-zA-Z0-9_ö-]{0,45}|[a-z0-9-]{2,40}", prefix in "|lab-|[A-Z]") {
        let mut input = input(3);
        rename(&mut input, &id);
        let mut wishes = wishes(SessionMode::Keep);
        wishes.id_prefix = prefix.clone();
        let done = transform::device(&input.found, &facts(), &wishes);
        prop_assert_eq!(&done.copy.id, &format!("{prefix}{}", id.replace('_', "-")));
        let finding = done.findings.iter().find(|f| f.kind == Kind::BadId);
        prop_assert_eq!(finding.is_none(), is_id(&done.copy.id));
        if let Some(finding) = finding {
            let proposed = finding.fix.split('`').nth(1).unwrap_or_default();
            prop_assert!(is_id(proposed), "{}", finding.fix);
        }
        for component in done.copy.components() {
            let message = &done.copy.get(component).expect("written").message;
            prop_assert_eq!(path::string(message, "ids.device_id"), done.copy.id.clone());
            prop_assert_eq!(path::string(message, "ids.application_ids.application_id"), "target-app");
        }
    }

    #[test]
    fn what_is_proposed_is_valid_also_without_an_eui(id in "\\PC{0,60}") {
        if let Some(proposed) = identity::propose(&id, None) {
            prop_assert!(is_id(&proposed), "{proposed}");
        }
        prop_assert!(identity::propose(&id, Some(Eui64([0xAB; 8]))).is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_order_of_the_input_changes_nothing(order in Just((0..8_u64).collect::<Vec<_>>()).prop_shuffle()) {
        let make = |order: &[u64]| {
            let mut inputs: Vec<_> = order.iter().map(|n| input(*n)).collect();
            for (n, input) in order.iter().zip(&mut inputs) {
                match n { 5 => rename(input, "a-b"), 6 => rename(input, "a_b"), _ => {} }
            }
            plan_of(&inputs, &HashMap::new())
        };
        let show = |plans: &[DevicePlan]| plans.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>();
        let plans = make(&order);
        prop_assert!(plans.is_sorted_by(|a, b| a.id < b.id));
        prop_assert_eq!(show(&plans), show(&make(&[0, 1, 2, 3, 4, 5, 6, 7])));
    }
}

#[test]
fn devices_that_would_get_one_id_are_both_stopped() {
    let (mut a, mut b) = (input(0), input(1));
    rename(&mut a, "a_b");
    rename(&mut b, "a-b");
    let plans = plan_of(&[a.clone(), b.clone(), input(3)], &HashMap::new());
    let clashing: Vec<_> =
        plans.iter().filter(|p| has(&p.findings, Kind::IdClash)).map(|p| p.id.to_string()).collect();
    assert_eq!(clashing, ["a-b", "a_b"]);
    assert_eq!(plans.iter().filter(|p| p.verdict == Verdict::Stop).count(), 2);
    // What an earlier run has finished stays finished; the newcomer is stopped.
    b.begun = Some(Begun { target_id: "a-b".into(), state: "done", finished: true });
    let plans = plan_of(&[a, b], &HashMap::new());
    assert_eq!((&plans[0].verdict, &plans[1].verdict), (&Verdict::Done, &Verdict::Stop));
}

#[test]
fn ids_may_be_made_of_the_eui() {
    let mut wishes = wishes(SessionMode::Keep);
    wishes.id_from = IdFrom::Eui;
    assert_eq!(identity::target_id(&generated(0), &facts(), &wishes), "eui-70b3d57e00000000");
    let mut found = generated(4);
    for component in Component::ALL {
        if let Some(Record(message)) = found.records.slot(component) {
            path::clear(message, "ids.dev_eui");
        }
    }
    assert_eq!(identity::target_id(&found, &facts(), &wishes), "gen-000004", "a multicast group has none");
}

#[test]
fn an_equal_device_on_the_target_is_adopted_and_another_is_not() {
    let input = input(0);
    let copy = transform(&input.found, SessionMode::Keep).copy;
    let there = copy.is.expect("IS").message;
    let on_target = |record: &DynamicMessage| HashMap::from([(copy.id.clone(), Record(record.clone()))]);
    let plan = |record: &DynamicMessage| plan_of(std::slice::from_ref(&input), &on_target(record)).remove(0);
    let adopted = plan(&there);
    assert!(has(&adopted.findings, Kind::Adopted) && adopted.verdict == Verdict::Move);

    for (at, value) in [("ids.dev_eui", bytes(&[1; 8])), ("name", text("another"))] {
        let mut other = there.clone();
        path::set(&mut other, at, value);
        let taken = plan(&other);
        assert_eq!(taken.verdict, Verdict::Stop, "{at}");
        let finding = taken.findings.iter().find(|f| f.kind == Kind::IdTaken).expect("a finding");
        assert_eq!(finding.paths, [at]);
    }
}

#[test]
fn euis_that_another_device_has_stop_this_one() {
    let mut input = input(0);
    let app = AppId::unchecked;
    input.holder = Some((app("other-app"), DeviceId::unchecked("squatter")));
    let plan = plan_of(&[input.clone()], &HashMap::new()).remove(0);
    let finding = plan.findings.iter().find(|f| f.kind == Kind::EuisTaken).expect("a finding");
    assert!(finding.text.contains("squatter of application other-app"), "{}", finding.text);
    input.holder = Some((app("target-app"), input.id.clone()));
    assert!(!has(&plan_of(&[input], &HashMap::new())[0].findings, Kind::EuisTaken));
}

#[test]
fn a_device_that_nobody_has_is_not_found() {
    let mut input = input(0);
    input.found = Found::default();
    let plan = plan_of(&[input], &HashMap::new()).remove(0);
    assert_eq!((plan.verdict, plan.findings.len()), (Verdict::Stop, 1));
    assert_eq!(plan.findings[0].kind, Kind::NotFound);
}

#[test]
fn a_verdict_is_that_of_the_gravest_finding() {
    let mut input = input(2);
    path::clear(ns(&mut input.found), "pending_mac_state.queued_join_accept");
    let plan = |input: &Input| {
        plan::devices(std::slice::from_ref(input), &HashMap::new(), &facts(), &wishes(SessionMode::Keep))
            .remove(0)
    };
    assert_eq!(plan(&input).verdict, Verdict::Wait);
    fill(is(&mut input.found), "picture", 1);
    path::touch(is(&mut input.found), "picture");
    assert_eq!(plan(&input).verdict, Verdict::Stop);
}

/// The calls that the state machine asks for, with clear mode `keys`, as `engine` makes them.
fn calls_of_the_steps(found: &Found, done: &Transformed) -> u32 {
    let was = found.records.ns.as_ref().map(|ns| path::wrapped_flag(&ns.0, MUTE));
    let clear: BTreeSet<_> = found
        .records
        .present()
        .map(|(c, _)| c)
        .filter(|c| *c != Component::Is && !done.keep_at_source.contains(c))
        .collect();
    let first = found.records.js.is_some() && found.records.ns.is_none();
    let recipe = Recipe {
        strategy: if first { step::Strategy::ClearFirst } else { step::Strategy::MuteSource },
        target_id: done.copy.id.clone(),
        mute: was.map(|was| Mute { was }),
        create: done.copy.components().collect(),
        clear,
        wait_seen: done.carry == Carry::Drop,
        started_at: done.copy.ns.as_ref().is_some_and(|w| path::has(&w.message, transform::STARTED_AT)),
        counters: false,
    };
    let (mut state, mut calls) = (State::default(), 0);
    while let Next::Step(step) = state.next() {
        let event = match step {
            Step::Snapshot => step::Event::Snapshot { seal: 1, recipe: recipe.clone() },
            Step::Reread => step::Event::Reread { seal: 2, copy: 3, recipe: recipe.clone() },
            step => step::Event::Done { step },
        };
        state = state.apply(&event).expect("legal");
        calls += match step {
            Step::Mute => u32::from(was != Some(Some(false))),
            Step::Snapshot | Step::Reread | Step::CheckSnapshot => 4,
            Step::Create(Component::Ns) => 6,
            Step::Clear(Component::Js) if first && done.copy.js.is_some() => 2,
            Step::Create(_) | Step::StartedAt => 2,
            Step::Verify(_) | Step::AwaitSeen | Step::Clear(_) => 1,
            _ => 0,
        };
    }
    calls
}

#[test]
fn the_predicted_calls_are_those_of_the_steps() {
    for seed in 0..5 {
        for mode in [SessionMode::Keep, SessionMode::Drop] {
            for bits in 1..16_usize {
                let mut input = input(seed);
                for (i, component) in
                    Component::ALL.into_iter().enumerate().filter(|(i, _)| bits & (1 << i) == 0)
                {
                    let _ = i;
                    *input.found.records.slot(component) = None;
                }
                if input.found.records.present().next().is_none() {
                    continue;
                }
                let done = transform(&input.found, mode);
                let plan =
                    plan::devices(&[input.clone()], &HashMap::new(), &facts(), &wishes(mode)).remove(0);
                assert_eq!(plan.calls, calls_of_the_steps(&input.found, &done), "{seed} {bits:04b} {mode:?}");
            }
        }
    }
}

#[test]
fn only_devices_that_move_count_as_calls() {
    let mut stopped = input(1);
    fill(is(&mut stopped.found), "picture", 1);
    path::touch(is(&mut stopped.found), "picture");
    let devices = plan_of(&[input(0), stopped], &HashMap::new());
    let calls = devices[0].calls;
    let app = AppId::unchecked("app");
    let application = ApplicationPlan {
        source: app.clone(),
        target: app,
        create: false,
        belongings: Vec::new(),
        findings: vec![],
        devices,
    };
    let plan = Plan { applications: vec![application], ..Plan::default() };
    assert_eq!(plan.calls(), u64::from(calls));
    assert_eq!((plan.count(|v| *v == Verdict::Move), plan.count(|v| *v == Verdict::Stop)), (1, 1));
}
