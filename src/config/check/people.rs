//! Who is who on both sides.

use std::collections::BTreeMap;

use super::{
    super::{
        diagnostic::Diagnostic,
        raw::RawPeople,
        read::{At, StringMap},
    },
    Checker,
};
use crate::{model::ids::is_id, plan::belongings::collaborator::People};

impl Checker<'_, '_> {
    pub(super) fn people(&mut self, raw: Option<At<RawPeople>>) -> People {
        let Some(At { value: raw, .. }) = raw else { return People::default() };
        let people = People {
            users: self.accounts(raw.users, "people.users"),
            organizations: self.accounts(raw.organizations, "people.organizations"),
        };
        self.has_people = true;
        people
    }

    /// No two may become one: their rights would be mixed.
    fn accounts(&mut self, raw: Option<At<StringMap>>, path: &str) -> BTreeMap<String, String> {
        let mut seen: BTreeMap<String, At<String>> = BTreeMap::new();
        let mut accounts = BTreeMap::new();
        for (from, to) in raw.map(|raw| raw.value.0).unwrap_or_default() {
            for id in [&from, &to] {
                if !is_id(&id.value) {
                    let label = "3 to 36 of a-z, 0-9 and single dashes between them";
                    self.error(&id.at, format!("`{path}` holds `{}`, which is no ID", id.value), label, "");
                }
            }
            if let Some(first) = seen.get(&to.value) {
                let error = Diagnostic::error(&to.at, format!("two of `{path}` become `{}`", to.value));
                self.reader.report(
                    error
                        .also(&first.at, "the first one")
                        .help("map one of them, and give what is missing by hand"),
                );
            }
            accounts.insert(from.value, to.value.clone());
            seen.insert(to.value.clone(), to);
        }
        accounts
    }
}
