//! Reads the belongings of both sides and plans them. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost_reflect::DynamicMessage;

use super::{Belongings, clear, log::ItemLog, now};
use crate::{
    config::ClearIntegrations,
    engine::run::{Job, Pace, RunError},
    journal::JournalHandle,
    map::path,
    model::{belonging::ItemKey, secret::key_id},
    plan::{
        self, DevicePlan,
        belongings::{
            self, Facts, Found, Ids, ItemPlan, Sort, Verdict,
            api_key::{self, API_KEY},
            collaborator,
        },
        finding::{Finding, Kind},
    },
    step::belonging::ItemState,
    tts::{
        Stack,
        belongings::{Listed, chosen},
    },
};

/// Reads and plans what belongs to the application of `job`. `here`, `exists`: the source, or the target, has its application.
/// `link`: that of a source of V2, which has nothing else.
///
/// # Errors
/// When a side or the journal cannot be read.
pub async fn read(
    job: &Job,
    journal: Option<&JournalHandle>,
    pace: &Pace,
    (here, exists): (bool, bool),
    devices: &[DevicePlan],
    link: Option<&DynamicMessage>,
) -> Result<Belongings, RunError> {
    let log = match journal {
        Some(journal) => Some(ItemLog::open(journal, job.source.app()).await?),
        None => None,
    };
    let known = log.as_ref().map(|log| log.known(job.target.app())).unwrap_or_default();
    let sorts = chosen(&job.wishes.copy);
    let mut out = Belongings { keys_in_use: job.keys_in_use.clone(), ..Belongings::default() };
    if !pace.hold {
        let clears =
            |(key, state): &&(ItemKey, ItemState)| clear::step(pace, &job.keys_in_use, key, state).is_some();
        out.to_clear = known.iter().filter(clears).count();
    }
    let mut founds = Vec::new();
    for sort in sorts.iter().copied().filter(|_| here) {
        let found = match job.source.tts() {
            Some(source) if sort.is_of_device() => {
                of_devices(job, source.stack(), sort, pace, devices).await?
            }
            Some(source) => {
                source.stack().belongings(sort, source.app(), "").await?.map(|all| name(job, sort, None, all))
            }
            None => Some(name(job, sort, None, link.cloned().into_iter().collect())),
        };
        match found {
            Some(found) => founds.extend(found),
            None => out.findings.push(not_seen(sort)),
        }
    }
    let moved: BTreeSet<_> =
        devices.iter().filter(|d| d.verdict == plan::Verdict::Move).map(|d| d.id.as_str()).collect();
    let begun: BTreeMap<_, _> =
        known.iter().filter(|(key, state)| is_begun(key, state, &moved)).cloned().collect();
    let seen: BTreeMap<_, _> = founds.iter().map(|found| (found.key.clone(), found.called())).collect();
    let downlink_keys = downlink_keys(&founds);
    founds.retain(|found| !begun.contains_key(&found.key));
    let sealed =
        known.iter().map(|(key, _)| key).filter(|key| !begun.contains_key(key) && !seen.contains_key(key));
    out.vanished = sealed.cloned().collect();
    let mut there = on_target(job, &founds, exists).await?;
    let taken = taken_keys(log.as_ref(), &known).await?;
    there.retain(|item, _| item.sort != API_KEY.name || !taken.contains(&item.id));
    let mut facts = if founds.is_empty() {
        Facts::default()
    } else {
        job.target.stack().belonging_facts(job.target.app(), &sorts, exists).await?
    };
    (facts.keys_in_use, facts.downlink_keys, facts.now) = (job.keys_in_use.clone(), downlink_keys, now());
    api_key::pair(&mut founds, &there, &facts);
    for found in founds {
        let decided = belongings::transform(&found, &facts, &job.wishes);
        let mut findings = decided.findings.clone();
        let verdict = match there.get(&there_as(&found)) {
            _ if decided.blocked() => Verdict::Stop,
            _ if decided.left() => Verdict::Leave,
            None => Verdict::Create,
            Some(there) => {
                let (verdict, more) = belongings::there(&found, &decided, there);
                findings.extend(more);
                let is_key = found.sort.ids == Ids::Key && verdict == Verdict::Equal;
                findings.extend(is_key.then(|| api_key::adopted(&found)));
                verdict
            }
        };
        out.plans.push(ItemPlan { key: found.key.clone(), called: found.called(), verdict, findings });
        out.fresh.push((found, decided, verdict));
    }
    out.findings.extend(cannot_pause(job, pace, &out.plans));
    for (key, state) in begun {
        let verdict = if state.is_there() { Verdict::Done } else { Verdict::Resume(state.name()) };
        let called = seen.get(&key).cloned().unwrap_or_default();
        out.plans.push(ItemPlan { key, called, verdict, findings: Vec::new() });
    }
    out.plans.sort_by(|a, b| a.key.cmp(&b.key));
    out.packages = facts.packages;
    Ok(out)
}

/// IDs of the API keys of the target that were made by earlier runs, or stand for one of the source.
async fn taken_keys(
    log: Option<&ItemLog>,
    known: &[(ItemKey, ItemState)],
) -> Result<BTreeSet<String>, RunError> {
    let mut taken: BTreeSet<_> = known.iter().filter_map(|(_, state)| Some(state.key()?.0.clone())).collect();
    for (item, _) in known.iter().filter(|(item, state)| item.sort == API_KEY.name && state.is_matched()) {
        if let Some(log) = log {
            taken.insert(log.sealed(&API_KEY, item).await?.target_name);
        }
    }
    Ok(taken)
}

/// IDs of the API keys that webhooks hand out, and whose copies hand out others.
fn downlink_keys(founds: &[Found]) -> BTreeSet<String> {
    let tokens = founds.iter().filter_map(|found| Some(path::string(&found.message, found.sort.key?)));
    tokens.filter_map(|token| key_id(&token).map(str::to_owned)).collect()
}

/// What an earlier run only sealed is decided anew, but for what a device has that was begun: its clear may have taken that
/// away at the source.
fn is_begun(key: &ItemKey, state: &ItemState, moved: &BTreeSet<&str>) -> bool {
    let with_its_device = !key.device.is_empty() && !moved.contains(key.device.as_str());
    with_its_device || state.is_matched() || state.made().next().is_some() || state.source_changed()
}

fn name(job: &Job, sort: &'static Sort, device: Option<&DevicePlan>, all: Vec<DynamicMessage>) -> Vec<Found> {
    let found = all.into_iter().map(|message| {
        let id = sort.ids.of(&message);
        let target_name = match device {
            Some(device) => device.target_id.clone(),
            None if sort.ids == Ids::Account => job.wishes.people.there(&id),
            None => String::new(),
        };
        let device = device.map(|d| d.id.as_str().to_owned()).unwrap_or_default();
        let target = job.target.app().as_str().to_owned();
        Found { key: ItemKey { target, sort: sort.name.to_owned(), device, id }, sort, target_name, message }
    });
    found.collect()
}

/// Those of the devices that are moved; `None` when the key may not look. What earlier runs moved has been read by them.
async fn of_devices(
    job: &Job,
    source: &Stack,
    sort: &'static Sort,
    pace: &Pace,
    devices: &[DevicePlan],
) -> Result<Option<Vec<Found>>, RunError> {
    let moved: Vec<_> = devices.iter().filter(|d| d.verdict == plan::Verdict::Move).collect();
    let app = job.source.app();
    let listed: Vec<(Listed, &DevicePlan)> = stream::iter(moved)
        .map(|device| async move {
            Ok::<_, RunError>((source.belongings(sort, app, device.id.as_str()).await?, device))
        })
        .buffer_unordered(pace.in_flight.max(1))
        .try_collect()
        .await?;
    let mut found = Vec::new();
    for (all, device) in listed {
        let Some(all) = all else { return Ok(None) };
        found.extend(name(job, sort, Some(device), all));
    }
    Ok(Some(found))
}

/// What the target holds under the same names, and will when it is created for its owner. Where the application is yet to be created, asking tells what the target's
/// version does not know: masks are checked first.
async fn on_target(
    job: &Job,
    founds: &[Found],
    exists: bool,
) -> Result<BTreeMap<ItemKey, DynamicMessage>, RunError> {
    let mut there = BTreeMap::new();
    let sorts: BTreeSet<_> = founds.iter().filter(|f| !f.sort.is_of_device()).map(|f| f.sort.name).collect();
    for sort in sorts.into_iter().filter_map(Sort::by_name) {
        let all = job.target.stack().belongings(sort, job.target.app(), "").await?.unwrap_or_default();
        let owner = job.owner.as_ref().filter(|_| !exists && sort.ids == Ids::Account);
        let all = all.into_iter().chain(owner.map(|owner| collaborator::owner(&owner.to_string())));
        there
            .extend(name(job, sort, None, all.collect()).into_iter().map(|found| (found.key, found.message)));
    }
    Ok(there)
}

/// The key under which the target holds it, if it does.
fn there_as(found: &Found) -> ItemKey {
    let id = found.sort.names_there(&found.key, &found.target_name).1.to_owned();
    ItemKey { id, ..found.key.clone() }
}

fn not_seen(sort: &Sort) -> Finding {
    let text = format!("{} were not looked at: the API key of the source has no right to", sort.plural);
    Finding::new(Kind::NotCopied, text).fix(format!(
        "give it the right, or recreate them on the target by hand and leave {} out of application.copy",
        sort.copy
    ))
}

/// Pub/subs begin when they are set, and go on until they are deleted.
fn cannot_pause(job: &Job, pace: &Pace, plans: &[ItemPlan]) -> Vec<Finding> {
    let defers = |plan: &ItemPlan| Sort::by_name(&plan.key.sort).is_some_and(|sort| sort.defers);
    let mut findings = Vec::new();
    if !plans.iter().any(|plan| plan.verdict == Verdict::Create && defers(plan)) {
        return findings;
    }
    if job.wishes.paused {
        let text =
            "pub/subs cannot be paused (integrations.paused): they are created once the first device is live";
        findings.push(Finding::new(Kind::CannotPause, text));
    }
    if pace.integrations == ClearIntegrations::Pause {
        let text = "pub/subs cannot be paused (clear.integrations): those of the source go on";
        let fix = "delete them by hand at the end, or use clear.integrations = \"delete\"";
        findings.push(Finding::new(Kind::CannotPause, text).fix(fix));
    }
    findings
}
