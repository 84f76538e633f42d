//! Devices of The Things Network Stack V2: what the planner adds for them, and how two readings of one compare.

use super::transform::Found;
use crate::map::ttn_v2::{V2Device, same_standing};

/// What changed between two readings of one device. Counters, and when it was last heard, are no change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// DevAddr, NwkSKey or AppSKey: the device joined again, or somebody gave it another session.
    pub session: bool,
    /// The AppKey.
    pub root_key: bool,
    /// AppEUI or DevEUI: it is another device.
    pub euis: bool,
    /// Anything else: flags, description, location, attributes, unknown fields.
    pub other: bool,
    /// One of the two is no device of V2.
    pub missing: bool,
}

impl Changes {
    /// True when nothing changed.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What changed, in words.
    pub fn words(self) -> Vec<&'static str> {
        let all = [
            (self.session, "session"),
            (self.root_key, "root key"),
            (self.euis, "EUIs"),
            (self.other, "other fields"),
            (self.missing, "the device came or went"),
        ];
        all.into_iter().filter(|(changed, _)| *changed).map(|(_, words)| words).collect()
    }
}

/// Compares two readings of one device. The session key IDs of their records are drawn, and do not count.
pub fn same_device(before: &Found, now: &Found) -> Changes {
    let (Some(before), Some(now)) = (&before.v2, &now.v2) else {
        let missing = before.v2.is_some() || now.v2.is_some();
        return Changes { missing, ..Changes::default() };
    };
    let session = |d: &V2Device| (d.dev_addr(), d.nwk_s_key(), d.app_s_key());
    let euis = |d: &V2Device| (d.app_id(), d.dev_id(), d.app_eui(), d.dev_eui());
    Changes {
        session: session(before) != session(now),
        root_key: before.app_key() != now.app_key(),
        euis: euis(before) != euis(now),
        other: !same_standing(before, now),
        missing: false,
    }
}
