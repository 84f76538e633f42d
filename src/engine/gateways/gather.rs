//! Reads gateways on both sides and plans them. Changes nothing.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Fresh, GatewayJob, Which, clear, is_done, item, known, open, redirect, rights, wait};
use crate::{
    engine::{belongings::log::ItemLog, run::RunError},
    journal::JournalHandle,
    map::path,
    plan::{
        belongings::Verdict,
        finding::{Finding, Kind},
        gateways::{
            self, Facts, Found, GatewayPlan, GatewaysPlan, There,
            redirect::{Redirect, caution, without_keys},
        },
    },
    tts::Stack,
    wire,
};

/// What was read of one gateway at the source.
enum Read {
    Found(Found),
    /// It cannot be planned.
    Not(String, Finding),
}

/// IDs at the source of the gateways of a run; known before they are planned.
///
/// # Errors
/// When the source cannot be asked.
pub async fn moving(job: &GatewayJob) -> Result<BTreeSet<String>, RunError> {
    let chosen = |id: &String| match &job.which {
        Which::Glob(globs) => globs.iter().any(|glob| glob.matches(id)),
        _ => true,
    };
    let owner = match &job.which {
        Which::Ids(ids) => return Ok(ids.clone()),
        Which::Listed(list) => return Ok(list.iter().map(|found| found.id.clone()).collect()),
        Which::Owner(owner) => Some(owner),
        Which::Glob(_) => None,
    };
    let Some(source) = &job.source else { return Ok(BTreeSet::new()) };
    let listed = source.gateways(owner, &["ids".to_owned()], false).await?;
    Ok(listed.iter().map(|g| path::string(g, "ids.gateway_id")).filter(chosen).collect())
}

/// Those of which something is recorded, as they stand. `delete`: they are to go from the source.
///
/// # Errors
/// When the journal cannot be read.
pub async fn begun(job: &GatewayJob, log: &ItemLog, delete: bool) -> Result<Vec<GatewayPlan>, RunError> {
    let mut all = Vec::new();
    for (item, state) in known(log) {
        let verdict =
            if is_done(job, log, &item).await? { Verdict::Done } else { Verdict::Resume(state.name()) };
        let redirect = redirect::left(job, log, &item).await?;
        all.push(GatewayPlan {
            target_id: format!("{}{}", job.wishes.prefix, item.id),
            eui: None,
            verdict,
            keys: job.wishes.api_keys.clone(),
            redirect,
            delete: delete && (!state.is_there() || clear::is_to_go(&state)),
            findings: redirect.finding(&item.id).into_iter().collect(),
            id: item.id,
        });
    }
    Ok(all)
}

/// The plan of a run that only goes on with the clear.
///
/// # Errors
/// When the journal cannot be read.
pub async fn to_clear(job: &GatewayJob, journal: &JournalHandle) -> Result<GatewaysPlan, RunError> {
    let mut gateways = begun(job, &open(journal).await?, true).await?;
    gateways.retain(|gateway| gateway.verdict == Verdict::Done && gateway.delete);
    let mut plan = GatewaysPlan { gateways, findings: Vec::new() };
    plan.findings.extend(plan.deletion());
    Ok(plan)
}

/// Reads and plans the gateways. `one_deployment`: source and target are the same. `delete`: they go from the source at the end.
///
/// # Errors
/// When a side or the journal cannot be read, or there are too many of them.
pub async fn read(
    job: &GatewayJob,
    journal: Option<&JournalHandle>,
    one_deployment: bool,
    delete: bool,
) -> Result<(GatewaysPlan, Vec<Fresh>), RunError> {
    let log = match journal {
        Some(journal) => Some(open(journal).await?),
        None => None,
    };
    let ids = moving(job).await?;
    if ids.len() as u64 > job.max {
        return Err(RunError::TooManyGateways { gateways: ids.len(), max: job.max });
    }
    let mut plan = GatewaysPlan::default();
    if let Some(log) = &log {
        plan.gateways = begun(job, log, delete).await?;
    }
    let new: Vec<_> =
        ids.into_iter().filter(|id| plan.gateways.iter().all(|gateway| gateway.id != *id)).collect();
    let reads: Vec<_> = stream::iter(new)
        .map(|id| of_source(job, id))
        .buffer_unordered(job.in_flight.max(1))
        .try_collect()
        .await?;
    let facts = Facts {
        gateway_server: job.target.gateway_server.clone(),
        frequency_plans: job.target.frequency_plans().await?.into_keys().collect(),
        one_deployment,
    };
    let deleted = deleted(job).await?;
    let mut fresh = Vec::new();
    for read in reads {
        let found = match read {
            Read::Found(found) => found,
            Read::Not(id, finding) => {
                plan.gateways.push(stopped(job, id, finding));
                continue;
            }
        };
        let decided = gateways::transform(&found, &facts, &job.wishes);
        let there = if one_deployment {
            There::default()
        } else {
            there(job, log.as_ref(), &found, &decided.target_id, &deleted).await?
        };
        let (verdict, more) = gateways::verdict(&found, &decided, &facts, &there);
        // What stays as it is, or is there already, needs no words about what would be written.
        let mut findings = if verdict == Verdict::Create || verdict == Verdict::Stop {
            decided.findings.clone()
        } else {
            Vec::new()
        };
        findings.extend(more);
        let redirect = match verdict {
            Verdict::Create => decided.redirect,
            Verdict::Equal | Verdict::Differs if !one_deployment => without_keys(decided.redirect),
            _ => Redirect::Off,
        };
        findings.extend(redirect.finding(&found.id));
        plan.gateways.push(GatewayPlan {
            id: found.id.clone(),
            target_id: if one_deployment { found.id.clone() } else { decided.target_id.clone() },
            eui: gateways::eui(&found.message),
            verdict,
            keys: if verdict == Verdict::Create { job.wishes.api_keys.clone() } else { Vec::new() },
            redirect,
            delete: delete && !one_deployment && matches!(verdict, Verdict::Create | Verdict::Equal),
            findings,
        });
        fresh.push((found, decided, verdict));
    }
    plan.gateways.sort_by(|a, b| a.id.cmp(&b.id));
    fresh.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    if one_deployment {
        fresh.clear();
    }
    if plan.have_work() {
        plan.findings.extend(rights::of_target(job, delete).await?);
    }
    plan.findings.extend(rights::of_source(job, &plan).await?);
    plan.findings.extend(plan.gateways.is_empty().then(wait::none_chosen));
    plan.findings.extend(plan.redirects().then(|| caution(job.ca.as_deref())));
    plan.findings.extend(plan.deletion());
    if plan.findings.iter().any(Finding::blocks) {
        for gateway in plan.gateways.iter_mut().filter(|g| g.verdict == Verdict::Create) {
            gateway.verdict = Verdict::Stop;
        }
        fresh.retain(|(_, _, verdict)| *verdict != Verdict::Create);
    }
    Ok((plan, fresh))
}

/// The gateways as the source has them, for a rehearsal.
///
/// # Errors
/// When the source cannot be read.
pub async fn found(job: &GatewayJob) -> Result<Vec<Found>, RunError> {
    let mut found = Vec::new();
    for id in moving(job).await? {
        if let Read::Found(gateway) = of_source(job, id).await? {
            found.push(gateway);
        }
    }
    Ok(found)
}

fn stopped(job: &GatewayJob, id: String, finding: Finding) -> GatewayPlan {
    let target_id = format!("{}{id}", job.wishes.prefix);
    GatewayPlan {
        id,
        target_id,
        eui: None,
        verdict: Verdict::Stop,
        keys: Vec::new(),
        redirect: Redirect::Off,
        delete: false,
        findings: vec![finding],
    }
}

/// A gateway whole; without its secrets where the key may not read these.
async fn of_source(job: &GatewayJob, id: String) -> Result<Read, RunError> {
    if let Which::Listed(list) = &job.which
        && let Some(found) = list.iter().find(|found| found.id == id)
    {
        return Ok(Read::Found(found.clone()));
    }
    let missing = |id: String| {
        let text = format!("gateway {id}: there is none of this ID at the source");
        Read::Not(id, Finding::new(Kind::NotFound, text).fix("check [gateways]"))
    };
    let Some(source) = &job.source else { return Ok(missing(id)) };
    let denied = |error: &wire::Error| matches!(error.kind(), wire::Kind::Denied { .. });
    let (found, secrets) = match source.gateway(&id, &gateways::whole()).await {
        Err(error) if denied(&error) => (source.gateway(&id, &gateways::without_secrets()).await, false),
        found => (found, true),
    };
    match found {
        Ok(Some(message)) => Ok(Read::Found(Found { id, message, secrets })),
        Ok(None) => Ok(missing(id)),
        Err(error) if denied(&error) => {
            let text = format!("gateway {id}: the API key of the source may not read it");
            let fix = "give the key of a user or an organization RIGHT_GATEWAY_INFO and RIGHT_GATEWAY_READ_SECRETS, \
                       and name it in gateways.api-key";
            Ok(Read::Not(id, Finding::new(Kind::Rights, text).fix(fix)))
        }
        Err(error) => Err(error.into()),
    }
}

/// IDs of deleted gateways of the owner; none where the key may not look.
async fn deleted(job: &GatewayJob) -> Result<BTreeSet<String>, RunError> {
    match job.target.gateways(job.owner.as_ref(), &["ids".to_owned()], true).await {
        Ok(listed) => Ok(listed.iter().map(|g| path::string(g, "ids.gateway_id")).collect()),
        Err(error) if matches!(error.kind(), wire::Kind::Denied { .. } | wire::Kind::NotFound) => {
            Ok(BTreeSet::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// What the target has where a gateway is to go.
async fn there(
    job: &GatewayJob,
    log: Option<&ItemLog>,
    found: &Found,
    target_id: &str,
    deleted: &BTreeSet<String>,
) -> Result<There, RunError> {
    let mut there = There {
        deleted: deleted.contains(target_id),
        by_us: log.is_some_and(|log| log.was_removed(&item(&found.id))),
        ..There::default()
    };
    (there.ours, there.theirs) = look(&job.target, target_id).await?;
    if let Some(eui) = gateways::eui(&found.message) {
        there.eui_holder = job.target.gateway_by_eui(eui).await?;
    }
    Ok(there)
}

/// A gateway of the target, and whether it is one that we may not see.
async fn look(target: &Stack, id: &str) -> Result<(Option<prost_reflect::DynamicMessage>, bool), RunError> {
    match target.gateway(id, &gateways::whole()).await {
        Ok(found) => Ok((found, false)),
        // Rights are asked for before the gateway is looked up; what is public tells whether there is one.
        Err(error) if matches!(error.kind(), wire::Kind::Denied { .. }) => {
            Ok((None, target.gateway(id, &["name".to_owned()]).await?.is_some()))
        }
        // No ID: the plan says so.
        Err(error) if matches!(error.kind(), wire::Kind::Invalid { .. }) => Ok((None, false)),
        Err(error) => Err(error.into()),
    }
}
