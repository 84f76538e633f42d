//! Contacts of an application: users or organizations, by IDs of one deployment, so that `[people]` has to say who is who.
//! A server takes none but collaborators, and at a create none but the owner, whom it puts in where nobody is named
//! (`pkg/identityserver/application_registry.go`; docs/servers.md, Collaborators). So they follow the collaborators.

use prost_reflect::{DynamicMessage, Value};

use super::{
    belongings::collaborator::COLLABORATOR,
    facts::Wishes,
    finding::{Finding, Kind},
    gateways::{CONTACTS, transform::account},
    transform::Write,
};
use crate::{map::path, proto};

/// What becomes of the contacts of an application.
#[derive(Debug, Clone, Default)]
pub struct Contacts {
    /// Those to set, by field: whose place they take on the target is the owner's.
    pub set: Vec<(&'static str, String)>,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
}

/// Decides about the contacts. `target` is the application there, if it is there; `ours` when this journal has made it or
/// will; `owner` who owns it then, as `user ID` or `organization ID`.
pub fn contacts(
    source: &DynamicMessage,
    target: Option<&DynamicMessage>,
    (ours, owner): (bool, &str),
    wishes: &Wishes,
) -> Contacts {
    let mut out = Contacts::default();
    for contact in CONTACTS {
        let Some((_, name)) = account(source, contact) else { continue };
        let there = wishes.people.there(&name);
        let now = target.and_then(|target| account(target, contact)).map(|(_, name)| name);
        if there.is_empty() {
            let text = format!("{name} is a contact, whom the owner on the target replaces");
            let finding = Finding::new(Kind::NotCopied, text).paths([contact]);
            out.findings.push(finding.fix(format!("say in [people] who {name} is on the target")));
        } else if now.as_ref().map_or(owner, String::as_str) == there {
            // As it should be, or as the server will have it.
        } else if !ours || now.as_ref().is_some_and(|now| now != owner) {
            let text = "the application is on the target already, with another contact, who stays";
            let finding = Finding::new(Kind::ApplicationDiffers, text).paths([contact]);
            out.findings
                .push(finding.fix("change it on the target by hand where it should be as at the source"));
        } else if wishes.copy.contains(COLLABORATOR.copy) {
            out.set.push((contact, there));
        } else {
            let text = format!("{name} is a contact, who has to be a collaborator, and these are not copied");
            let finding = Finding::new(Kind::NotCopied, text).paths([contact]);
            out.findings.push(finding.fix("add \"collaborators\" to application.copy"));
        }
    }
    out
}

/// The write that makes these the contacts.
pub fn write(contacts: &[(&'static str, String)]) -> Write {
    let mut message = proto::message("Application");
    for (contact, name) in contacts {
        let Some((kind, id)) = name.split_once(' ') else { continue };
        path::set(&mut message, &format!("{contact}.{kind}_ids.{kind}_id"), Value::String(id.to_owned()));
    }
    Write { message, paths: contacts.iter().map(|(contact, _)| (*contact).to_owned()).collect() }
}

/// Who the contacts of an application are, by field.
pub fn of(application: &DynamicMessage) -> Vec<(&'static str, String)> {
    CONTACTS.into_iter().filter_map(|contact| Some((contact, account(application, contact)?.1))).collect()
}

/// The mask that reads them.
pub fn paths() -> Vec<String> {
    CONTACTS.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{belongings::collaborator::People, facts::SessionMode};

    fn application(administrative: &str, technical: &str) -> DynamicMessage {
        write(&[(CONTACTS[0], administrative.to_owned()), (CONTACTS[1], technical.to_owned())]).message
    }

    fn wishes(copy: &[&'static str]) -> Wishes {
        let pairs =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let people =
            People { users: pairs(&[("alice", "alice-nl")]), organizations: pairs(&[("acme", "acme-eu")]) };
        Wishes {
            people,
            copy: copy.iter().copied().collect(),
            ..crate::plan::tests::wishes(SessionMode::Auto)
        }
    }

    fn kinds(found: &Contacts) -> Vec<Kind> {
        found.findings.iter().map(|f| f.kind).collect()
    }

    #[test]
    fn the_mapped_are_set_where_the_owner_stands() {
        let source = application("user alice", "organization acme");
        let wanted =
            [(CONTACTS[0], "user alice-nl".to_owned()), (CONTACTS[1], "organization acme-eu".to_owned())];
        let ours = (true, "user admin");
        let found = contacts(&source, None, ours, &wishes(&["collaborators"]));
        assert_eq!((found.set, found.findings), (wanted.to_vec(), Vec::new()));
        let owner = application("user admin", "organization acme-eu");
        let found = contacts(&source, Some(&owner), ours, &wishes(&["collaborators"]));
        assert_eq!((&found.set[..], found.findings), (&wanted[..1], Vec::new()));
        let found = contacts(&source, None, (true, "user alice-nl"), &wishes(&["collaborators"]));
        assert_eq!((&found.set[..], found.findings), (&wanted[1..], Vec::new()));
    }

    #[test]
    fn what_is_not_set_is_a_finding() {
        let source = application("user bob", "user alice");
        let found = contacts(&source, None, (true, "user admin"), &wishes(&[]));
        assert_eq!((found.set.len(), kinds(&found)), (0, vec![Kind::NotCopied; 2]));
        let theirs = application("user bob", "user carol");
        for ours in [false, true] {
            let found = contacts(&source, Some(&theirs), (ours, "user admin"), &wishes(&["collaborators"]));
            assert_eq!(
                (found.set.len(), kinds(&found)),
                (0, vec![Kind::NotCopied, Kind::ApplicationDiffers])
            );
        }
    }
}
