use proptest::{
    prelude::{Just, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
    strategy::Strategy as Generator,
};

use super::*;

fn recipe(strategy: Strategy, mute: bool, ns: bool, clear: bool, wait_seen: bool) -> Recipe {
    let all: BTreeSet<_> = Component::ALL.into_iter().filter(|c| ns || *c != Component::Ns).collect();
    let mut cleared: BTreeSet<_> = if clear { all.clone() } else { BTreeSet::new() };
    cleared.remove(&Component::Is);
    match strategy {
        Strategy::MuteSource => {}
        Strategy::MuteTarget => cleared = [Component::Ns, Component::Is].into(),
        Strategy::ClearFirst => {
            cleared.insert(Component::Js);
        }
        Strategy::Swap => cleared = all.clone(),
    }
    Recipe {
        strategy,
        target_id: "meter-1".into(),
        mute: mute.then_some(Mute { was: None }),
        create: all,
        clear: cleared,
        wait_seen,
        started_at: ns,
        counters: strategy == Strategy::MuteTarget && clear,
    }
}

fn recipes() -> impl Generator<Value = Recipe> {
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(c, w)| recipe(Strategy::MuteSource, true, true, c, w)),
        any::<bool>().prop_map(|w| recipe(Strategy::ClearFirst, false, false, true, w)),
        Just(recipe(Strategy::Swap, true, true, true, false)),
        Just(recipe(Strategy::Swap, false, false, true, false)),
        (any::<bool>(), any::<bool>()).prop_map(|(c, w)| recipe(Strategy::MuteTarget, false, true, c, w)),
    ]
}

/// The events of carrying out what `state` asks for.
fn carry_out(state: &State, recipe: &Recipe) -> Vec<Event> {
    match state.next() {
        Next::Step(Step::Snapshot) => vec![Event::Snapshot { seal: 1, recipe: recipe.clone() }],
        Next::Step(Step::Reread) => vec![Event::Reread { seal: 2, copy: 3, recipe: recipe.clone() }],
        Next::Step(Step::CheckSnapshot) => vec![Event::Checked { seal: 4 }],
        Next::Step(Step::Count) => vec![Event::Counted { copy: 7 }],
        Next::Step(Step::ReadBack) => vec![read_back(state)],
        Next::Step(step) => vec![Event::Intent { step }, Event::Done { step }],
        Next::Finish => vec![Event::Finished],
        Next::Undone => vec![Event::Undone],
        Next::Nothing => vec![],
    }
}

/// What was cleared comes back, and the session of the Network Server in any case.
fn read_back(state: &State) -> Event {
    let restore = state.cleared().chain([Component::Ns]).collect();
    Event::ReadBack { seal: 5, back: 6, restore }
}

fn rollback() -> Event {
    Event::Rollback { kind: "rolled-back".into(), why: "test".into() }
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

    /// A rollback at any point, also after the end, brings everything back, and the move can start again.
    #[test]
    fn a_rollback_at_any_point_ends_new(
        recipe in recipes(),
        cut in 1usize..80,
        again in 0usize..60,
    ) {
        let (end, log) = run_to_end(State::default(), &recipe);
        let mut state = State::replay(&log[..cut.min(log.len())]).expect("legal");
        let cleared: Vec<_> = state.cleared().collect();
        let before = state.clone();
        state = state.apply(&rollback()).expect("it can always be asked for");
        let mut steps = Vec::new();
        for turn in 0..100 {
            if state == State::default() {
                break;
            }
            for event in carry_out(&state, &recipe) {
                if let Event::Intent { step } = &event {
                    check_promises(&state, &recipe, *step)?;
                    steps.push(*step);
                }
                state = state.apply(&event).expect("legal");
            }
            if turn == again {
                // The program was killed and started again.
                state = state.resumed();
            }
        }
        prop_assert_eq!(&state, &State::default(), "it never ends");
        for component in cleared {
            prop_assert!(steps.contains(&Step::Restore(component)), "S3: {} does not come back", component);
        }
        for component in before.made() {
            prop_assert!(steps.contains(&Step::Remove(component)), "{} is left on the target", component);
        }
        prop_assert_eq!(run_to_end(state, &recipe).0, end);
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

fn component_() -> impl Generator<Value = Component> + Clone {
    prop_oneof![Just(Component::Is), Just(Component::Js), Just(Component::As), Just(Component::Ns)]
}

fn any_event() -> impl Generator<Value = Event> {
    let component = component_();
    let step = prop_oneof![
        Just(Step::Mute),
        component.clone().prop_map(Step::Create),
        Just(Step::StartedAt),
        component.clone().prop_map(Step::Verify),
        Just(Step::AwaitSeen),
        Just(Step::CheckSnapshot),
        component.clone().prop_map(Step::Clear),
        Just(Step::SetCounters),
        component.clone().prop_map(Step::Remove),
        Just(Step::Unmute),
        Just(Step::MuteTarget),
        Just(Step::UnmuteTarget),
        component.clone().prop_map(Step::Restore),
        component.clone().prop_map(Step::VerifyBack),
        Just(Step::CheckBack),
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
        1 => Just(rollback()),
        1 => proptest::collection::btree_set(component_(), 0..=4)
            .prop_map(|restore| Event::ReadBack { seal: 5, back: 6, restore }),
        1 => Just(Event::Kept),
        1 => Just(Event::Checked { seal: 4 }),
        1 => Just(Event::Counted { copy: 7 }),
        1 => Just(Event::Finished),
    ]
}

/// What the servers may hold, whatever the log says: a call may take effect from its intent on, until it surely did not.
#[derive(Default)]
struct World {
    target_ns: bool,
    target_ns_was_there: bool,
    target_muted: bool,
    source_ns_gone: bool,
    source_muted: bool,
}

impl World {
    fn new(recipe: &Recipe) -> Self {
        Self { target_muted: recipe.strategy == Strategy::MuteTarget, ..Self::default() }
    }

    /// Follows an event that was recorded; `before` is the state in which it was.
    fn follow(&mut self, before: &State, recipe: &Recipe, event: &Event) {
        const NS: Component = Component::Ns;
        match event {
            Event::Intent { step: Step::Create(NS) } => self.target_ns = true,
            // Only an attempt that began and surely failed leaves nothing behind.
            Event::Failed { step: Step::Create(NS), maybe_applied: false, .. }
                if before.is_open(Step::Create(NS)) && !before.has(Step::Create(NS)) =>
            {
                self.target_ns = false;
            }
            Event::Adopted { component: NS } => self.target_ns_was_there = true,
            Event::Done { step: Step::Remove(NS) } => self.target_ns = false,
            Event::Done { step: Step::Mute } => self.source_muted = true,
            Event::Intent { step: Step::Unmute } => self.source_muted = false,
            Event::Done { step: Step::MuteTarget } => self.target_muted = true,
            Event::Intent { step: Step::UnmuteTarget } => self.target_muted = false,
            Event::Done { step: Step::Clear(NS) } => self.source_ns_gone = true,
            // Records are made muted.
            Event::Intent { step: Step::Restore(_) } => self.source_ns_gone = false,
            Event::Undone => *self = Self::new(recipe),
            _ => {}
        }
    }

    fn is_live_twice(&self, recipe: &Recipe) -> bool {
        let mute_target = recipe.strategy == Strategy::MuteTarget;
        // One that was there as it is written here is muted, too.
        let target = ((self.target_ns || mute_target) && !self.target_muted)
            || self.target_ns_was_there && !mute_target;
        let source = !self.source_ns_gone && !self.source_muted;
        target && (recipe.mute.is_some() || mute_target) && source
    }
}

proptest! {
    /// S2 over everything that the journal would take, also lost answers, adoption, undo and rollback.
    #[test]
    fn no_log_makes_a_device_live_twice(
        strategy in prop_oneof![Just(Strategy::Swap), Just(Strategy::MuteSource), Just(Strategy::MuteTarget)],
        tries in proptest::collection::vec(any_event(), 1..240),
    ) {
        let recipe = recipe(strategy, strategy != Strategy::MuteTarget, true, true, false);
        let (mut state, mut world) = (State::default(), World::new(&recipe));
        for event in tries {
            let event = match event {
                Event::Snapshot { seal, .. } => Event::Snapshot { seal, recipe: recipe.clone() },
                Event::Reread { seal, copy, .. } => Event::Reread { seal, copy, recipe: recipe.clone() },
                other => other,
            };
            if let Ok(next) = state.apply(&event) {
                world.follow(&state, &recipe, &event);
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
    let swap = recipe.strategy == Strategy::Swap;
    match step {
        Step::Create(c) => {
            prop_assert!(c != Component::Ns || muted, "S2: target goes live while the source sends");
            let left = Component::ALL.into_iter().filter(|c| !before.has(Step::Clear(*c)));
            let left = left.filter(|c| recipe.clear.contains(c)).count();
            prop_assert!(!swap || left == 0, "S2: it would exist twice");
        }
        Step::Unmute => prop_assert!(!before.touched(Step::Create(Component::Ns)), "S2: both sides live"),
        Step::Clear(c) => {
            prop_assert!(before.has(Step::CheckSnapshot), "S1: snapshot not re-read");
            let first = swap || recipe.strategy == Strategy::ClearFirst && c == Component::Js;
            prop_assert!(first || before.verified(), "S1: target not verified");
            let whole = recipe.strategy == Strategy::MuteTarget && c == Component::Is;
            prop_assert!(!whole || before.has(Step::UnmuteTarget), "S3: nobody is live yet");
        }
        Step::UnmuteTarget if !before.goes_back() => {
            prop_assert!(before.has(Step::Clear(Component::Ns)), "S2: the source is live");
            prop_assert!(!recipe.counters || before.has(Step::SetCounters), "S4: lower counters go live");
        }
        Step::SetCounters => {
            prop_assert!(!before.touched(Step::UnmuteTarget), "the live target is written to");
            prop_assert!(before.has(Step::Clear(Component::Ns)), "S4: the source goes on counting");
        }
        Step::Remove(_) if before.goes_back() => {
            prop_assert!(before.has(Step::CheckBack), "S1: the target's seal was not re-read");
            let first = recipe.strategy.clears_first();
            prop_assert!(first || before.restored(), "S1: the source is not restored and verified");
        }
        Step::Restore(_) => {
            prop_assert!(before.read_back().is_some(), "S3: the target was not sealed");
            let live = before.touched(Step::Create(Component::Ns));
            let muted = before.has(Step::MuteTarget);
            prop_assert!(!live || muted && !recipe.strategy.clears_first(), "S2: both sides live");
        }
        _ => {}
    }
    Ok(())
}

/// The calls of a log, in words.
fn order(log: &[Event]) -> Vec<String> {
    let words = |e: &Event| match e {
        Event::Intent { step } => Some(step.to_string()),
        _ => None,
    };
    log.iter().filter_map(words).collect()
}

#[test]
fn the_order_of_mute_source_is_the_documented_one() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, true);
    let (_, log) = run_to_end(State::default(), &recipe);
    assert_eq!(
        order(&log),
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
            "clear the JS record at the source",
            "clear the AS record at the source",
            "clear the NS record at the source",
        ]
    );
}

#[test]
fn the_order_of_a_swap_is_the_documented_one() {
    let recipe = recipe(Strategy::Swap, true, true, true, false);
    assert_eq!(
        order(&run_to_end(State::default(), &recipe).1),
        [
            "mute the source",
            "clear the JS record at the source",
            "clear the AS record at the source",
            "clear the NS record at the source",
            "clear the IS record at the source",
            "create the IS record on the target",
            "create the JS record on the target",
            "create the AS record on the target",
            "verify the IS record on the target",
            "verify the JS record on the target",
            "verify the AS record on the target",
            "create the NS record on the target",
            "restore the session's start time",
            "verify the NS record on the target",
        ]
    );
}

#[test]
fn the_order_of_mute_target_is_the_documented_one() {
    let recipe = recipe(Strategy::MuteTarget, false, true, true, true);
    assert_eq!(
        order(&run_to_end(State::default(), &recipe).1),
        [
            "create the IS record on the target",
            "create the JS record on the target",
            "create the AS record on the target",
            "verify the IS record on the target",
            "verify the JS record on the target",
            "verify the AS record on the target",
            "create the NS record on the target",
            "restore the session's start time",
            "verify the NS record on the target",
            "clear the NS record at the source",
            "set the counters on the target",
            "unmute the target",
            "verify the NS record on the target",
            "wait until it is seen on the target",
            "clear the IS record at the source",
        ]
    );
}

#[test]
fn the_order_of_a_rollback_is_the_documented_one() {
    let after = |strategy| {
        let recipe = recipe(strategy, true, true, true, false);
        let (end, _) = run_to_end(State::default(), &recipe);
        let mut state = end.apply(&rollback()).expect("legal");
        let mut log = Vec::new();
        while state != State::default() {
            for event in carry_out(&state, &recipe) {
                state = state.apply(&event).expect("legal");
                log.push(event);
            }
        }
        order(&log)
    };
    let restores = |all: &[&str]| {
        let both = |c: &&str| {
            [format!("restore the {c} record at the source"), format!("verify the {c} record at the source")]
        };
        all.iter().flat_map(both).collect::<Vec<_>>()
    };
    let removes: Vec<_> =
        ["NS", "AS", "JS", "IS"].map(|c| format!("remove the {c} record from the target")).into();
    let check = vec!["check what was sealed of the target".to_owned()];
    let (first, last) = (vec!["mute the target".to_owned()], vec!["unmute the source".to_owned()]);
    let mute_source =
        [first.clone(), restores(&["JS", "AS", "NS"]), check.clone(), removes[..1].to_vec(), last.clone()];
    // Nothing is live on the target without its NS record: the source does not wait for the others.
    assert_eq!(after(Strategy::MuteSource), [mute_source.concat(), removes[1..].to_vec()].concat());
    let swap = [first, check, removes, restores(&["IS", "JS", "AS", "NS"]), last];
    assert_eq!(after(Strategy::Swap), swap.concat());
}

#[test]
fn a_rollback_that_changed_nothing_else_can_be_given_up() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, false);
    let (end, _) = run_to_end(State::default(), &recipe);
    let mut log = vec![rollback()];
    for step in [Step::MuteTarget, Step::UnmuteTarget] {
        log.extend([Event::Intent { step }, Event::Done { step }]);
    }
    log.push(Event::Kept);
    let kept = log.iter().try_fold(end.clone(), |state, event| state.apply(event)).expect("legal");
    assert_eq!(run_to_end(kept, &recipe).0, end);
    let muted = log[..3].iter().try_fold(end, |state, event| state.apply(event)).expect("legal");
    assert!(muted.apply(&Event::Kept).is_err(), "the target is still muted");
}

/// What is left on the target and cannot be removed must not leave the device silent.
#[test]
fn an_undo_unmutes_the_source_before_what_is_not_live_is_removed() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, false);
    let mut log = vec![Event::Snapshot { seal: 1, recipe: recipe.clone() }];
    log.extend([Event::Intent { step: Step::Mute }, Event::Done { step: Step::Mute }]);
    log.push(Event::Reread { seal: 2, copy: 3, recipe });
    let made = Step::Create(Component::Is);
    log.extend([Event::Intent { step: made }, Event::Done { step: made }]);
    log.push(Event::Undo { kind: "refused".into(), why: "a test".into() });
    let state = State::replay(&log).expect("legal");
    assert!(matches!(state.next(), Next::Step(Step::Unmute)));
    log.extend([Event::Intent { step: Step::Unmute }, Event::Done { step: Step::Unmute }]);
    let state = State::replay(&log).expect("legal");
    assert!(matches!(state.next(), Next::Step(Step::Remove(Component::Is))));
}

#[test]
fn what_was_live_on_the_target_before_is_not_rolled_back() {
    let recipe = recipe(Strategy::MuteSource, true, true, true, false);
    let mut log = vec![Event::Snapshot { seal: 1, recipe: recipe.clone() }];
    log.extend([Event::Intent { step: Step::Mute }, Event::Done { step: Step::Mute }]);
    log.push(Event::Reread { seal: 2, copy: 3, recipe });
    log.push(Event::Adopted { component: Component::Ns });
    assert!(State::replay(&log).expect("legal").apply(&rollback()).is_err());
}
