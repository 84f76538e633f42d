//! Field masks that a server of another version does not take whole.
//!
//! A server refuses a mask with one path that it does not know (`pkg/rpcmiddleware/validator:field_mask_paths`, the paths in
//! `forbidden_paths`). Those paths are taken out, by exact name, and remembered for the run.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};

use prost_reflect::{DynamicMessage, Value};

use super::{
    Answer, Call, Client, Error, Kind,
    error::{Failure, Outcome, short},
    throttle::lock,
};
use crate::map::mask;

/// The paths that a server refused, by method, for as long as the program runs.
#[derive(Debug, Default)]
pub struct MaskMemory(Mutex<HashMap<&'static str, BTreeSet<String>>>);

impl MaskMemory {
    /// `paths` without those that the server is known to refuse for `method`; and those.
    pub fn split(&self, method: &'static str, paths: &[String]) -> (Vec<String>, Vec<String>) {
        let memory = lock(&self.0);
        let refused = memory.get(method);
        paths.iter().cloned().partition(|path| !refused.is_some_and(|r| r.contains(path)))
    }

    /// Remembers what the server refused of what was `sent`; false when that is nothing.
    pub fn learn(&self, method: &'static str, sent: &[String], refused: &[String]) -> bool {
        let known: BTreeSet<_> = refused.iter().filter(|path| sent.contains(path)).cloned().collect();
        let any = !known.is_empty();
        lock(&self.0).entry(method).or_default().extend(known);
        any
    }
}

impl Client {
    /// A call whose `field_mask` is `paths`, as far as the server takes them. Answers also which it did not take: they
    /// are known to have had no effect, and what a read would have found there is unknown.
    ///
    /// A write of which no path is left is not sent: an empty mask means every field to some methods.
    pub async fn unary_masked(
        &self,
        method: &'static str,
        mut request: DynamicMessage,
        paths: &[impl AsRef<str>],
        call: Call,
    ) -> Result<(Answer, Vec<String>), Error> {
        let fail = |failure| {
            Error::new(failure, self.side(), self.endpoint()).of_call(method, &call.about, call.repeat, 0)
        };
        let paths: Vec<String> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        loop {
            let (kept, dropped) = self.masks().split(method, &paths);
            if kept.is_empty() && !dropped.is_empty() && !is_read(method) {
                let text = "the server takes none of the fields";
                return Err(fail(Failure::before(Kind::ForbiddenPaths(dropped), text)));
            }
            if !set_mask(&mut request, &kept) {
                return Err(fail(Failure::before(Kind::Protocol, "the request has no field mask")));
            }
            let error = match self.unary(method, request.clone(), call.clone()).await {
                Ok(answer) => return Ok((answer, dropped)),
                Err(error) => error,
            };
            let Kind::ForbiddenPaths(refused) = error.kind() else { return Err(error) };
            // Each round takes a path out, so this ends. A server that refuses what was not sent would make it endless.
            if !self.masks().learn(method, &kept, refused) {
                let text = "the server refuses paths that were not in the field mask";
                let failure =
                    Failure { outcome: Outcome::NotApplied, ..Failure::after(Kind::Protocol, text) };
                return Err(fail(failure));
            }
        }
    }
}

impl Client {
    /// Those of `paths` that the server has refused for `method` in this run.
    pub fn refused(&self, method: &'static str, paths: &[String]) -> Vec<String> {
        self.masks().split(method, paths).1
    }
}

/// Reads by their names in The Things Stack: `Get`, `GetIdentifiersForEUIs`, `List`, `ListRights`, …
fn is_read(method: &str) -> bool {
    short(method).rsplit('/').next().is_some_and(|name| name.starts_with("Get") || name.starts_with("List"))
}

fn set_mask(request: &mut DynamicMessage, paths: &[String]) -> bool {
    request.try_set_field_by_name("field_mask", Value::Message(mask::message(paths))).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &str = "/ttn.lorawan.v3.NsEndDeviceRegistry/Get";

    fn paths(list: &[&str]) -> Vec<String> {
        list.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn only_exact_paths_are_taken_out_and_only_for_their_method() {
        let memory = MaskMemory::default();
        let sent = paths(&["session", "session.keys", "mac_state"]);
        assert!(memory.learn(GET, &sent, &paths(&["session", "never_sent"])));
        let (kept, dropped) = memory.split(GET, &sent);
        assert_eq!((kept, dropped), (paths(&["session.keys", "mac_state"]), paths(&["session"])));
        assert_eq!(memory.split("/other", &sent).1, paths(&[]));
        assert!(!memory.learn(GET, &sent, &paths(&["never_sent"])));
    }

    #[test]
    fn reads_are_told_from_writes() {
        assert!(is_read(GET));
        assert!(is_read("/ttn.lorawan.v3.EndDeviceRegistry/GetIdentifiersForEUIs"));
        assert!(!is_read("/ttn.lorawan.v3.NsEndDeviceRegistry/Set"));
        assert!(!is_read("/ttn.lorawan.v3.GatewayRegistry/Update"));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_kept_and_dropped(sent: BTreeSet<u8>, refused: BTreeSet<u8>) {
            let name = |set: &BTreeSet<u8>| set.iter().map(|n| format!("f{n}")).collect::<Vec<_>>();
            let (sent, refused, memory) = (name(&sent), name(&refused), MaskMemory::default());
            let any = memory.learn(GET, &sent, &refused);
            let (kept, dropped) = memory.split(GET, &sent);
            prop_assert_eq!(any, !dropped.is_empty());
            prop_assert_eq!(kept.len() + dropped.len(), sent.len());
            prop_assert!(kept.iter().all(|p| !refused.contains(p)));
            prop_assert!(dropped.iter().all(|p| refused.contains(p)));
        }
    }
}
