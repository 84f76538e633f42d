//! What belongs to an application besides its devices, by name: a webhook, a pub/sub, an association of a package, …

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::AppId;

/// One thing of one pair of applications. It holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemKey {
    /// The application on the target.
    pub target: String,
    /// What it is, such as `webhook` ([`crate::plan::belongings::Sort::name`]).
    pub sort: String,
    /// Whose, by its ID at the source, for a thing of one device; empty for one of the application.
    pub device: String,
    /// Its own identifier, such as the ID of a webhook or an FPort; empty where an application has but one.
    pub id: String,
}

impl ItemKey {
    /// True for a thing that goes to this application.
    pub fn is_of(&self, target: &AppId) -> bool {
        self.target == target.as_str()
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sort)?;
        if !self.id.is_empty() {
            write!(f, " {}", self.id)?;
        }
        if !self.device.is_empty() {
            write!(f, " of device {}", self.device)?;
        }
        Ok(())
    }
}
