//! What the engine tells: consumed by `report` and by tests. No secrets.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    model::ids::{AppId, DeviceId},
    plan::{Plan, failed::FailedApplication, finding::Finding},
    step::Step,
    wire::{CallEvent, Observer, Side, WaitEvent, WaitReason},
};

/// A device of a run: application and device ID at the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName {
    /// Application.
    pub app: AppId,
    /// Device.
    pub device: DeviceId,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.device)
    }
}

/// How the work on a device ended in this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Moved: verified, and cleared as far as wanted.
    Done,
    /// It was done before this run.
    Already,
    /// Back at the source, as asked; nothing is left on the target.
    RolledBack,
    /// It is on the target; something that ends by itself is waited for.
    Waiting(String),
    /// Not moved; nothing is left behind.
    Refused(Vec<Finding>),
    /// In the middle: the same command goes on.
    Stopped(String),
    /// In the middle, and a person must look at it first.
    Blocked(Finding),
}

impl Outcome {
    /// What is wrong with something of this name; `None` when it ended well, or waits.
    pub(super) fn wrong(&self, name: &str) -> Option<String> {
        match self {
            Self::Refused(findings) => findings.first().map(ToString::to_string),
            Self::Blocked(finding) => Some(finding.to_string()),
            Self::Stopped(why) => Some(format!("{name}: {why}")),
            _ => None,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A remark about the run as a whole.
    Note(String),
    /// The plan is made.
    Planned(Arc<Plan>),
    /// Work begins on so many devices.
    Started {
        /// Devices that the plan lets go.
        devices: usize,
    },
    /// The application of the target is there.
    Application {
        /// On the target.
        app: AppId,
        /// False when it was there before.
        created: bool,
    },
    /// A step of a device was done.
    Step {
        /// Which device.
        device: DeviceName,
        /// Which step.
        step: Step,
        /// The step in the words of the source.
        what: String,
    },
    /// The work on a device ended.
    Ended {
        /// Which device.
        device: DeviceName,
        /// How.
        outcome: Outcome,
    },
    /// A call was made: method, what about, attempt, time, result.
    Call(String),
    /// The run waits before a call: why and how long.
    Wait(String),
    /// Ctrl-C: devices in hand are finished, no new ones are begun.
    Draining,
    /// Too many failures: no new devices are begun.
    TooManyFailures(usize),
}

/// Where the engine puts its events; it counts as they pass. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sink {
    sender: UnboundedSender<Event>,
    tally: Arc<Mutex<Tally>>,
}

/// What was counted in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records created on the target, or found there as they should be.
    pub created: usize,
    /// Records read back equal.
    pub verified: usize,
    /// Records cleared at the source.
    pub cleared: usize,
    /// Records of the source that got back what they lacked.
    pub restored: usize,
    /// Records removed from the target.
    pub removed: usize,
    /// gRPC calls, each attempt.
    pub calls: u64,
    /// Of these, those of each method at each side.
    pub methods: BTreeMap<(Side, &'static str), u64>,
    /// How long calls to each side were held back, by reason. Those that stood in line behind such a call are not counted.
    pub waits: BTreeMap<(Side, WaitReason), Duration>,
}

impl Sink {
    /// A sink that hands everything to `sender`; when nobody listens any more, events are only counted.
    pub fn new(sender: UnboundedSender<Event>) -> Self {
        Self { sender, tally: Arc::default() }
    }

    /// Counts and passes on.
    pub fn send(&self, event: Event) {
        {
            let mut tally = self.counts();
            match &event {
                Event::Step { step: Step::Create(_), .. } => tally.created += 1,
                Event::Step { step: Step::Verify(_), .. } => tally.verified += 1,
                Event::Step { step: Step::Clear(_), .. } => tally.cleared += 1,
                Event::Step { step: Step::Restore(_), .. } => tally.restored += 1,
                Event::Step { step: Step::Remove(_), .. } => tally.removed += 1,
                _ => {}
            }
        }
        let _ = self.sender.send(event);
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Sink {
    fn call(&self, call: &CallEvent<'_>) {
        let CallEvent { side, method, about, attempt, elapsed, code, .. } = call;
        {
            let mut tally = self.counts();
            tally.calls += 1;
            *tally.methods.entry((*side, *method)).or_default() += 1;
        }
        self.send(Event::Call(format!("{side} {method} {about} attempt {attempt}: {code} in {elapsed:.1?}")));
    }

    fn wait(&self, wait: &WaitEvent<'_>) {
        let WaitEvent { side, method, about, reason, duration } = wait;
        *self.counts().waits.entry((*side, *reason)).or_default() += *duration;
        self.send(Event::Wait(format!("waiting {duration:.1?} for the {side}: {reason} ({method} {about})")));
    }
}

/// What a run did, for the closing words and the exit code.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Ended devices with their outcome, in the order of their names.
    pub devices: Vec<(DeviceName, Outcome)>,
    /// What became of what applications have besides their devices, by name.
    pub belongings: Vec<(String, Outcome)>,
    /// Devices that were not begun: interrupted, too many failures, or their application failed.
    pub not_begun: usize,
    /// Applications that failed as a whole.
    pub failed: Vec<FailedApplication>,
    /// The application that failed so that no other was begun after it.
    pub stopped_by: Option<AppId>,
    /// Gateways, and what has to be changed in their settings.
    pub gateways: super::gateways::Registered,
    /// The file of the new API keys of applications, and how many are in it.
    pub new_keys: Option<(PathBuf, usize)>,
    /// Applications created on the target.
    pub created: Vec<AppId>,
    /// Applications of ours removed from the target.
    pub removed: Vec<AppId>,
    /// What was counted.
    pub tally: Tally,
    /// True when Ctrl-C ended it.
    pub interrupted: bool,
    /// True when another run was in the way of an application.
    pub locked: bool,
}

impl Summary {
    /// Takes in what became of what an application has besides its devices; for each, the last word counts.
    pub fn around(&mut self, outcomes: Vec<(String, Outcome)>) {
        let news: HashSet<_> = outcomes.iter().map(|(name, _)| name.as_str()).collect();
        self.belongings.retain(|(name, _)| !news.contains(name.as_str()));
        self.belongings.extend(outcomes);
        self.belongings.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// How many devices ended so.
    pub fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.devices.iter().filter(|(_, o)| which(o)).count()
    }
}
