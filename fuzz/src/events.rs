//! What the journal says of a device.

use stackferry::{
    model::device::Component,
    step::{Event, Next, State, Step},
};

/// Events, one a line, as JSON. Those that are legal keep the order in which nothing is lost; what the state asks for next
/// is legal too.
pub fn events(data: &[u8]) {
    let (mut state, mut order) = (State::default(), Order::default());
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
        let written = serde_json::to_vec(&event).expect("an event is JSON");
        assert_eq!(serde_json::from_slice::<Event>(&written).expect("readable"), event);
        match state.apply(&event) {
            Ok(next) => {
                order.follows(&event);
                state = next;
                goes_on(&state);
                goes_on(&state.clone().resumed());
            }
            Err(illegal) => assert!(!illegal.why.is_empty() && !illegal.to_string().is_empty()),
        }
    }
}

/// What a state asks for is legal in it.
fn goes_on(state: &State) {
    assert!(!state.name().is_empty());
    let event = match state.next() {
        // They are events of their own, with seals.
        Next::Step(Step::Snapshot | Step::Reread) | Next::Nothing => return,
        Next::Step(step) => Event::Intent { step },
        Next::Finish => Event::Finished,
        Next::Undone => Event::Undone,
    };
    if let Err(illegal) = state.apply(&event) {
        panic!("{illegal}: {state:?}");
    }
}

/// The rules that matter most, counted without the state machine.
#[derive(Default)]
struct Order {
    mutes: bool,
    muted: bool,
    /// The NS record is, or may be, on the target by our doing.
    live: bool,
    checked: bool,
    finished: bool,
}

impl Order {
    fn follows(&mut self, event: &Event) {
        assert!(!self.finished, "nothing comes after the end");
        match event {
            Event::Snapshot { recipe, .. } | Event::Reread { recipe, .. } => {
                self.mutes = recipe.mute.is_some()
            }
            Event::Intent { step } => self.step(*step),
            Event::Done { step } => {
                self.step(*step);
                match step {
                    Step::Mute => self.muted = true,
                    Step::Unmute => self.muted = false,
                    Step::CheckSnapshot => self.checked = true,
                    Step::Remove(Component::Ns) => self.live = false,
                    _ => {}
                }
            }
            Event::Adopted { component } => self.step(Step::Create(*component)),
            Event::Undone => *self = Self::default(),
            Event::Finished => self.finished = true,
            _ => {}
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Create(Component::Ns) => {
                assert!(!self.mutes || self.muted, "it would be live twice (S2)");
                self.live = true;
            }
            Step::Clear(_) => assert!(self.checked, "cleared without a look at the snapshot (S1)"),
            _ => {}
        }
    }
}
