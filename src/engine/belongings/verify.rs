//! Reads them back from the target and compares them with what was written. Changes nothing.

use super::log::ItemLog;
use crate::{
    engine::run::{Job, RunError},
    journal::JournalHandle,
    model::{belonging::ItemKey, ids::AppId},
    plan::belongings::{self, Decided, Found, Sort, Verdict},
    step::belonging::{ItemState, ItemStep},
    tts::belongings::Which,
};

/// What was found of one of them on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedItem {
    /// The application at the source.
    pub app: AppId,
    /// Which.
    pub item: ItemKey,
    /// Paths that are not as they were written; empty when all is well.
    pub differences: Vec<String>,
}

/// Compares all that the journal has copied to the application of `job`, or found there.
///
/// # Errors
/// When the journal or the target cannot be read.
pub async fn verify(job: &Job, journal: &JournalHandle) -> Result<Vec<VerifiedItem>, RunError> {
    let app = job.source.app();
    let log = ItemLog::open(journal, app).await?;
    let mut all = Vec::new();
    for (item, state) in log.known(job.target.app()) {
        let Some(sort) = Sort::by_name(&item.sort) else { continue };
        if state.is_matched() || state.has(ItemStep::Create) {
            let differences = one(job, &log, sort, &item, &state).await?;
            all.push(VerifiedItem { app: app.clone(), item, differences });
        }
    }
    Ok(all)
}

async fn one(
    job: &Job,
    log: &ItemLog,
    sort: &'static Sort,
    item: &ItemKey,
    state: &ItemState,
) -> Result<Vec<String>, RunError> {
    let sealed = log.sealed(sort, item).await?;
    let which = Which::there(sort, item, job.target.app(), &sealed.target_name);
    let Some(there) = job.target.stack().belonging(which).await? else {
        return Ok(vec!["it is gone".to_owned()]);
    };
    if state.is_matched() {
        let found = Found { key: item.clone(), sort, target_name: String::new(), message: sealed.found };
        let wants_key = sort.key.is_some_and(|key| crate::map::path::has(&found.message, key));
        let decided = Decided { write: sealed.write, wants_key, findings: Vec::new() };
        return Ok(match belongings::there(&found, &decided, &there) {
            (Verdict::Equal, _) => Vec::new(),
            (_, findings) => findings.into_iter().flat_map(|f| f.paths).collect(),
        });
    }
    let key = log.key(item).await?;
    let mut write = belongings::with_key(sort, sealed.write, key.as_ref().map(|key| key.reveal()));
    if !state.is_there() {
        write = belongings::paused(sort, write);
    }
    Ok(belongings::differences(sort, &write, &there))
}
