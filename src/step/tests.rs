use proptest::{
    prelude::{Just, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
    strategy::Strategy as Generator,
};

use super::*;

fn recipe(strategy: Strategy, mute: bool, ns: bool, clear: bool, wait_seen: bool) -> Recipe {
    let all: BTreeSet<_> = Component::ALL.into_iter().filter(|c| ns || *c != Component::Ns).collect();
    let mut cleared: BTreeSet<_> = if clear { all.clone() } else { BTreeSet::new() };
    cleared.remove(&Component::Is);
    if strategy == Strategy::ClearFirst {
        cleared.insert(Component::Js);
    }
    Recipe {
        strategy,
        target_id: "meter-1".into(),
        mute: mute.then_some(Mute { was: None }),
        create: all,
        clear: cleared,
        wait_seen,
        started_at: ns,
    }
}

fn recipes() -> impl Generator<Value = Recipe> {
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(c, w)| recipe(Strategy::MuteSource, true, true, c, w)),
        any::<bool>().prop_map(|w| recipe(Strategy::ClearFirst, false, false, true, w)),
    ]
}

/// The events of carrying out what `state` asks for.
fn carry_out(state: &State, recipe: &Recipe) -> Vec<Event> {
    match state.next() {
        Next::Step(Step::Snapshot) => vec![Event::Snapshot { seal: 1, recipe: recipe.clone() }],
        Next::Step(Step::Reread) => vec![Event::Reread { seal: 2, copy: 3, recipe: recipe.clone() }],
        Next::Step(step) => vec![Event::Intent { step }, Event::Done { step }],
        Next::Finish => vec![Event::Finished],
        Next::Undone => vec![Event::Undone],
        Next::Nothing => vec![],
    }
}

fn run_to_end(mut state: State, recipe: &Recipe) -> (State, Vec<Event>) {
    let mut log = Vec::new();
    for _ in 0..100 {
        let events = carry_out(&state, recipe);
        if events.is_empty() {
            return (state, log);
        }
        for event in events {
            state = state.apply(&event).expect("what a state asks for is legal");
            log.push(event);
        }
    }
    panic!("a device never ends");
}

proptest! {
    #[test]
    fn every_recipe_ends_finished_and_replays_to_the_same_state(recipe in recipes()) {
        let (state, log) = run_to_end(State::default(), &recipe);
        prop_assert!(state.is_finished());
        prop_assert_eq!(State::replay(&log).expect("legal"), state);
    }

    #[test]
    fn any_prefix_resumes_to_the_same_end(recipe in recipes(), cut in 0usize..60) {
        let (end, log) = run_to_end(State::default(), &recipe);
        let prefix = &log[..cut.min(log.len())];
        let (resumed, _) = run_to_end(State::replay(prefix).expect("legal"), &recipe);
        prop_assert_eq!(resumed, end);
    }

    #[test]
    fn an_undo_at_any_point_before_the_clear_ends_new(recipe in recipes(), cut in 1usize..60) {
        let (_, log) = run_to_end(State::default(), &recipe);
        let state = State::replay(&log[..cut.min(log.len())]).expect("legal");
        let undo = Event::Undo { kind: "refused".into(), why: "test".into() };
        match state.apply(&undo) {
            Ok(state) => {
                let mut state = state;
                while state != State::default() {
                    for event in carry_out(&state, &recipe) {
                        state = state.apply(&event).expect("legal");
                    }
                }
            }
            Err(_) => prop_assert!(state.is_finished() || state.cleared().next().is_some()),
        }
    }

    /// The order that the promises ask for, whatever events somebody tries to record.
    #[test]
    fn no_log_breaks_the_order(recipe in recipes(), tries in proptest::collection::vec(any_event(), 1..120)) {
        let mut state = State::default();
        let mut log = Vec::new();
        for event in tries {
            let event = match event {
                Event::Snapshot { seal, .. } => Event::Snapshot { seal, recipe: recipe.clone() },
                Event::Reread { seal, copy, .. } => Event::Reread { seal, copy, recipe: recipe.clone() },
                other => other,
            };
            if let Ok(next) = state.apply(&event) {
                log.push(event.clone());
                if let Event::Intent { step } = event {
                    check_promises(&state, &recipe, step)?;
                }
                state = next;
            }
        }
    }
}

fn any_event() -> impl Generator<Value = Event> {
    let component =
        prop_oneof![Just(Component::Is), Just(Component::Js), Just(Component::As), Just(Component::Ns)];
    let step = prop_oneof![
        Just(Step::Mute),
        component.clone().prop_map(Step::Create),
        Just(Step::StartedAt),
        component.clone().prop_map(Step::Verify),
        Just(Step::AwaitSeen),
        Just(Step::CheckSnapshot),
        component.clone().prop_map(Step::Clear),
        component.clone().prop_map(Step::Remove),
        Just(Step::Unmute),
    ];
    prop_oneof![
        1 => Just(Event::Snapshot { seal: 1, recipe: recipe(Strategy::MuteSource, true, true, true, false) }),
        1 => Just(Event::Reread { seal: 2, copy: 3, recipe: recipe(Strategy::MuteSource, true, true, true, false) }),
        6 => step.clone().prop_map(|step| Event::Intent { step }),
        2 => (step.clone(), any::<bool>())
            .prop_map(|(step, maybe_applied)| Event::Failed { step, maybe_applied, why: "test".into() }),
        1 => component.prop_map(|component| Event::Adopted { component }),
        6 => step.prop_map(|step| Event::Done { step }),
        1 => Just(Event::Undo { kind: "refused".into(), why: "test".into() }),
        1 => Just(Event::Undone),
        1 => Just(Event::Finished),
    ]
}

/// What the servers may hold, whatever the log says: a call may take effect from its intent on, until it surely did not.
#[derive(Default)]
struct World {
    target_ns: bool,
    target_ns_was_there: bool,
    source_muted: bool,
}

impl World {
    /// Follows an event that was recorded; `before` is the state in which it was.
    fn follow(&mut self, before: &State, event: &Event) {
        match event {
            Event::Intent { step: Step::Create(Component::Ns) } => self.target_ns = true,
            // Only an attempt that began and surely failed leaves nothing behind.
            Event::Failed { step: Step::Create(Component::Ns), maybe_applied: false, .. }
                if before.is_open(Step::Create(Component::Ns))
                    && !before.has(Step::Create(Component::Ns)) =>
            {
                self.target_ns = false;
            }
            Event::Adopted { component: Component::Ns } => self.target_ns_was_there = true,
            Event::Done { step: Step::Remove(Component::Ns) } => self.target_ns = false,
            Event::Done { step: Step::Mute } => self.source_muted = true,
            Event::Intent { step: Step::Unmute } => self.source_muted = false,
            Event::Undone => *self = Self::default(),
            _ => {}
        }
    }

    fn is_live_twice(&self, recipe: &Recipe) -> bool {
        (self.target_ns || self.target_ns_was_there) && recipe.mute.is_some() && !self.source_muted
    }
}

proptest! {
    /// S2 over everything that the journal would take, also lost answers, adoption and undo.
    #[test]
    fn no_log_makes_a_device_live_twice(tries in proptest::collection::vec(any_event(), 1..160)) {
        let recipe = recipe(Strategy::MuteSource, true, true, true, false);
        let (mut state, mut world) = (State::default(), World::default());
        for event in tries {
            if let Ok(next) = state.apply(&event) {
                world.follow(&state, &event);
                prop_assert!(!world.is_live_twice(&recipe), "after {event:?}");
                state = next;
            }
        }
    }
}

#[test]
fn an_undo_is_not_begun_twice() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, false);
    let undo = Event::Undo { kind: "refused".into(), why: "test".into() };
    let begun = [Event::Snapshot { seal: 1, recipe }, undo.clone()];
    let state = State::replay(&begun).expect("legal");
    assert!(state.apply(&undo).is_err());
}

#[test]
fn what_was_there_before_is_not_removed() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, false);
    let mut log = vec![Event::Snapshot { seal: 1, recipe: recipe.clone() }];
    log.extend([Event::Intent { step: Step::Mute }, Event::Done { step: Step::Mute }]);
    log.push(Event::Reread { seal: 2, copy: 3, recipe });
    log.push(Event::Adopted { component: Component::Is });
    log.push(Event::Undo { kind: "refused".into(), why: "test".into() });
    let state = State::replay(&log).expect("legal");
    assert_eq!(state.next(), Next::Step(Step::Unmute));
    assert!(state.apply(&Event::Intent { step: Step::Remove(Component::Is) }).is_err());
}

fn check_promises(before: &State, recipe: &Recipe, step: Step) -> Result<(), TestCaseError> {
    let muted = before.has(Step::Mute) || recipe.mute.is_none();
    match step {
        Step::Create(Component::Ns) => prop_assert!(muted, "S2: target goes live while the source sends"),
        Step::Unmute => prop_assert!(!before.touched(Step::Create(Component::Ns)), "S2: both sides live"),
        Step::Clear(c) => {
            prop_assert!(before.has(Step::CheckSnapshot), "S1: snapshot not re-read");
            let first = recipe.strategy == Strategy::ClearFirst && c == Component::Js;
            prop_assert!(first || before.verified(), "S1: target not verified");
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn the_order_of_mute_source_is_the_documented_one() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, true);
    let (_, log) = run_to_end(State::default(), &recipe);
    let steps: Vec<_> = log
        .iter()
        .filter_map(|e| match e {
            Event::Intent { step } => Some(step.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(
        steps,
        [
            "mute the source",
            "create the IS record on the target",
            "create the JS record on the target",
            "create the AS record on the target",
            "verify the IS record on the target",
            "verify the JS record on the target",
            "verify the AS record on the target",
            "create the NS record on the target",
            "restore the session's start time",
            "verify the NS record on the target",
            "wait until it is seen on the target",
            "check the sealed snapshot",
            "clear the JS record at the source",
            "clear the AS record at the source",
            "clear the NS record at the source",
        ]
    );
}
