//! What the engine tells: consumed by `report` and by tests. No secrets.

use std::{fmt, sync::Arc};

use crate::{
    model::ids::{AppId, DeviceId},
    plan::{Plan, finding::Finding},
    step::Step,
    wire::{CallEvent, WaitEvent},
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
    /// It is on the target; something that ends by itself is waited for.
    Waiting(String),
    /// Not moved; nothing is left behind.
    Refused(Vec<Finding>),
    /// In the middle: the same command goes on.
    Stopped(String),
    /// In the middle, and a person must look at it first.
    Blocked(Finding),
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
    },
    /// The work on a device ended.
    Ended {
        /// Which device.
        device: DeviceName,
        /// How.
        outcome: Outcome,
    },
    /// A call was made.
    Call(CallEvent),
    /// The run waits before a call.
    Wait(WaitEvent),
    /// Ctrl-C: devices in hand are finished, no new ones are begun.
    Draining,
    /// Too many failures: no new devices are begun.
    TooManyFailures(usize),
}

/// What a run did, for the closing words and the exit code.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Ended devices with their outcome, in the order of their names.
    pub devices: Vec<(DeviceName, Outcome)>,
    /// Devices that were not begun: interrupted, or too many failures.
    pub not_begun: usize,
    /// Applications created on the target.
    pub created: Vec<AppId>,
    /// Records created, verified and cleared in this run.
    pub created_records: usize,
    /// Records read back equal in this run.
    pub verified_records: usize,
    /// Records cleared at the source in this run.
    pub cleared_records: usize,
    /// True when Ctrl-C ended it.
    pub interrupted: bool,
}

impl Summary {
    /// How many devices ended so.
    pub fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.devices.iter().filter(|(_, o)| which(o)).count()
    }
}
