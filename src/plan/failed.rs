//! An application that cannot be moved as a whole. It stops no other, unless the configuration says so.

use std::fmt;

use crate::model::ids::AppId;

/// An application that failed: in the plan, in the run, or when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedApplication {
    /// At the source; the shape of a block where its applications cannot be listed.
    pub source: AppId,
    /// On the target.
    pub target: AppId,
    /// What is wrong; no secrets.
    pub why: String,
    /// What to do about it, if that is known.
    pub fix: Option<String>,
    /// How many of its devices were to be moved; `None` when they were not looked at.
    pub devices: Option<usize>,
}

impl FailedApplication {
    /// One whose devices were not looked at.
    pub fn new(source: &AppId, target: &AppId, why: impl fmt::Display, fix: Option<String>) -> Self {
        Self { source: source.clone(), target: target.clone(), why: why.to_string(), fix, devices: None }
    }
}

impl fmt::Display for FailedApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "application {} → {} failed: {}", self.source, self.target, self.why)
    }
}
