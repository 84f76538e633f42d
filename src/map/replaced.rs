//! What is never copied from the source as it is: the one table that the planner, the documentation and the tests read.

use std::fmt;

use super::path;
use crate::model::device::Component::{self, As, Is, Js, Ns};

/// What happens to a value that is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// The target's own value is written, or nothing where the target needs none.
    TargetsOwn,
    /// It is left out without a word: it was put there by a migration.
    Dropped,
    /// It is left out, and a finding of the plan names it.
    Reported,
    /// The target's server sets it.
    ServerSet,
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TargetsOwn => "the target's own",
            Self::Dropped => "left out",
            Self::Reported => "left out and reported",
            Self::ServerSet => "set by the server",
        })
    }
}

/// One row: a path of one component's record, what becomes of it, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Whose record.
    pub component: Component,
    /// A path of `EndDevice` (everything below it too), or of `ApplicationActivationSettings`; `*.` in front stands for
    /// any message on the way.
    pub path: &'static str,
    /// What becomes of the value.
    pub treatment: Treatment,
    /// Why it is not copied.
    pub reason: &'static str,
}

impl Replaced {
    fn concerns(&self, component: Component, path: &str) -> bool {
        self.component == component
            && match self.path.strip_prefix("*.") {
                Some(last) => path.rsplit_once('.').is_some_and(|(_, name)| name == last),
                None => path::covers(self.path, path),
            }
    }
}

const APPLICATION: &str = "the application may have another ID on the target";
const OWN_TIME: &str = "each server stamps its own records";
const OWN_HOST: &str = "the record must name the servers that now hold the device";
const JOIN_HOST: &str = "the Join Server accepts joins from, and sends keys to, these servers only: the source's would \
                         make every join fail";
const WRAPPING: &str = "keys are read and written in the clear; the label names a key encryption key that only one \
                        cluster has";
const NETWORK: &str = "a NetID belongs to one network: another's makes every join fail";
const SESSION_ADDRESS: &str = "follows session.dev_addr";

const fn row(
    component: Component,
    path: &'static str,
    treatment: Treatment,
    reason: &'static str,
) -> Replaced {
    Replaced { component, path, treatment, reason }
}

/// Sources: the rules in `docs/servers.md`; `pkg/joinserver` of The Things Stack for what a join compares.
const TABLE: &[Replaced] = {
    use Treatment::{Dropped, Reported, ServerSet, TargetsOwn};
    &[
        row(Is, "ids.application_ids", TargetsOwn, APPLICATION),
        row(Is, "created_at", ServerSet, OWN_TIME),
        row(Is, "updated_at", ServerSet, OWN_TIME),
        row(Is, "network_server_address", TargetsOwn, OWN_HOST),
        row(Is, "application_server_address", TargetsOwn, OWN_HOST),
        row(
            Is,
            "join_server_address",
            TargetsOwn,
            "the record must name the Join Server that now holds the root keys; an external Join Server stays",
        ),
        row(
            Is,
            "picture",
            Reported,
            "the record holds the address of a picture in the source's store, which the target does not have",
        ),
        row(Js, "ids.application_ids", TargetsOwn, APPLICATION),
        row(Js, "ids.dev_addr", ServerSet, SESSION_ADDRESS),
        row(Js, "created_at", ServerSet, OWN_TIME),
        row(Js, "updated_at", ServerSet, OWN_TIME),
        row(Js, "network_server_address", TargetsOwn, JOIN_HOST),
        row(Js, "application_server_address", TargetsOwn, JOIN_HOST),
        row(Js, "net_id", TargetsOwn, NETWORK),
        row(Js, "home_net_id", TargetsOwn, NETWORK),
        row(
            Js,
            "application_server_id",
            TargetsOwn,
            "names one Application Server to the Join Server: another's is refused session keys",
        ),
        row(Js, "network_server_kek_label", TargetsOwn, WRAPPING),
        row(Js, "application_server_kek_label", TargetsOwn, WRAPPING),
        row(Js, "*.kek_label", TargetsOwn, WRAPPING),
        row(Js, "*.encrypted_key", TargetsOwn, WRAPPING),
        row(
            Js,
            "provisioner_id",
            Reported,
            "names a provisioner of the source; a target that does not know it cannot derive the keys",
        ),
        row(As, "ids.application_ids", TargetsOwn, APPLICATION),
        row(As, "ids.dev_addr", ServerSet, SESSION_ADDRESS),
        row(As, "created_at", ServerSet, OWN_TIME),
        row(As, "updated_at", ServerSet, OWN_TIME),
        row(As, "*.kek_label", TargetsOwn, WRAPPING),
        row(As, "*.encrypted_key", TargetsOwn, WRAPPING),
        row(
            As,
            "pending_session",
            Reported,
            "the Application Server cannot be told a session that no uplink has confirmed",
        ),
        row(Ns, "ids.application_ids", TargetsOwn, APPLICATION),
        row(Ns, "ids.dev_addr", ServerSet, SESSION_ADDRESS),
        row(Ns, "created_at", ServerSet, OWN_TIME),
        row(Ns, "updated_at", ServerSet, OWN_TIME),
        row(
            Ns,
            "mac_settings.schedule_downlinks",
            Dropped,
            "false mutes the source while the device moves: on the target it would never get a join-accept",
        ),
        row(Ns, "*.kek_label", TargetsOwn, WRAPPING),
        row(Ns, "*.encrypted_key", TargetsOwn, WRAPPING),
        row(Ns, "power_state", Reported, "only a status report of the device sets it"),
        row(
            Ns,
            "session.queued_application_downlinks",
            Reported,
            "the queue is filled by pushing downlinks, not by setting the device",
        ),
    ]
};

/// The table, in the order of components and paths in which it is printed.
pub fn table() -> &'static [Replaced] {
    TABLE
}

/// The row that speaks of `path` in the record of `component`, if any: exactly, of what lies above it, or of its last
/// name anywhere.
pub fn find(component: Component, path: &str) -> Option<&'static Replaced> {
    TABLE.iter().find(|row| row.concerns(component, path))
}

const INTRODUCTION: &str = "\
# What is replaced on the way

<!-- Generated from src/map/replaced.rs; `STACKFERRY_BLESS=1 cargo test map::replaced` writes it anew. -->

These fields of a device are not written to the target as the source holds them; every other field that the target's API
takes is, or the plan has a [finding](findings.md). A path stands for everything below it, `*.` in front for any message on
the way.

";

/// `docs/replaced.md`: what the table is, and the table.
pub fn document() -> String {
    format!("{INTRODUCTION}{}", markdown())
}

/// The table as Markdown.
pub fn markdown() -> String {
    let mut text = String::from("| record | path | on the target | why |\n|---|---|---|---|\n");
    for row in TABLE {
        text += &format!("| {} | `{}` | {} | {} |\n", row.component, row.path, row.treatment, row.reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;
    use crate::proto;

    #[test]
    fn the_table_in_docs_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/replaced.md");
        if env::var_os("STACKFERRY_BLESS").is_some() {
            fs::write(&path, document()).expect("written");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == document(),
            "docs/replaced.md is not current: STACKFERRY_BLESS=1 cargo test map::replaced"
        );
    }

    #[test]
    fn every_path_of_the_table_exists_once() {
        let device = proto::descriptor("EndDevice");
        let activation = proto::descriptor("ApplicationActivationSettings");
        let envelope = proto::descriptor("KeyEnvelope");
        for row in table() {
            let known = match row.path.strip_prefix("*.") {
                Some(last) => path::exists(&envelope, last),
                None => path::exists(&device, row.path) || path::exists(&activation, row.path),
            };
            assert!(known, "{}", row.path);
            let same = |r: &&Replaced| (r.component, r.path) == (row.component, row.path);
            assert_eq!(table().iter().filter(same).count(), 1, "{} {}", row.component, row.path);
        }
    }

    #[test]
    fn what_a_wrong_value_of_breaks_joins_is_the_targets_own() {
        for path in
            ["network_server_address", "application_server_address", "net_id", "application_server_id"]
        {
            assert_eq!(find(Js, path).map(|r| r.treatment), Some(Treatment::TargetsOwn), "{path}");
        }
    }

    #[test]
    fn a_row_speaks_of_what_lies_below_it_and_of_its_component_alone() {
        assert!(find(Is, "picture.sizes.0").is_some());
        assert!(find(Ns, "session.keys.f_nwk_s_int_key.kek_label").is_some());
        assert!(find(Ns, "session.keys.f_nwk_s_int_key.key").is_none());
        assert!(find(Ns, "mac_settings.schedule_downlinks.value").is_some());
        assert!(find(Is, "net_id").is_none());
        assert!(find(Is, "name").is_none());
    }

    #[test]
    fn what_is_reported_is_what_no_component_can_be_told_or_what_the_target_cannot_use() {
        let told: Vec<_> = table()
            .iter()
            .filter(|r| r.treatment == Treatment::Reported)
            .filter(|r| super::super::owner::is_writable(r.component, r.path))
            .map(|r| r.path)
            .collect();
        assert_eq!(told, ["picture", "provisioner_id"]);
    }

    #[test]
    fn the_documentation_has_every_row() {
        assert_eq!(markdown().lines().count(), table().len() + 2);
        assert!(markdown().contains("| JS | `net_id` | the target's own | a NetID belongs to one network"));
    }
}
