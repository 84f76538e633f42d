//! Reads both sides and makes the plan. Nothing is changed here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost_reflect::DynamicMessage;

use super::{
    application::{self, ApplicationState, Origin},
    belongings::{self, Belongings},
    log::DeviceLog,
    run::{Job, Pace, RunError},
};
use crate::{
    config::{ClearMode, Selection},
    journal::{DeviceKey, JournalHandle},
    map::{owner, path},
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId},
    },
    plan::{
        self, ApplicationPlan, Begun, Input, Verdict,
        facts::TargetFacts,
        finding::{Finding, Kind, Severity},
        radio,
        transform::Found,
    },
    source::Source as _,
    target::Target as _,
    tts::Stack,
    wire,
};

/// Rights that reading, muting and clearing a source application needs (docs/servers.md, Rights).
const SOURCE_RIGHTS: &[&str] = &[
    "RIGHT_APPLICATION_INFO",
    "RIGHT_APPLICATION_SETTINGS_BASIC",
    "RIGHT_APPLICATION_DEVICES_READ",
    "RIGHT_APPLICATION_DEVICES_READ_KEYS",
    "RIGHT_APPLICATION_DEVICES_WRITE",
    "RIGHT_APPLICATION_DEVICES_WRITE_KEYS",
    "RIGHT_APPLICATION_TRAFFIC_READ",
];

/// Rights that writing and verifying a target application needs.
const TARGET_RIGHTS: &[&str] = &[
    "RIGHT_APPLICATION_INFO",
    "RIGHT_APPLICATION_SETTINGS_BASIC",
    "RIGHT_APPLICATION_DEVICES_READ",
    "RIGHT_APPLICATION_DEVICES_READ_KEYS",
    "RIGHT_APPLICATION_DEVICES_WRITE",
    "RIGHT_APPLICATION_DEVICES_WRITE_KEYS",
];

/// An application that is ready to be moved.
#[derive(Debug)]
pub struct Prepared {
    /// Both sides of the application itself.
    pub state: ApplicationState,
    /// What the target said of itself.
    pub facts: Arc<TargetFacts>,
    /// Source and target are one deployment.
    pub one_deployment: bool,
    /// The source cannot be muted: the target is, until the source is cleared.
    pub mutes_target: bool,
    /// What the application has besides its devices.
    pub belongings: Belongings,
}

/// Plans one application.
///
/// # Errors
/// When one of the sides cannot be read as a whole.
pub async fn application(
    job: &Job,
    journal: Option<&JournalHandle>,
    pace: &Pace,
) -> Result<(ApplicationPlan, Prepared), RunError> {
    let target = job.target.stack();
    let (app, target_app) = (job.source.app(), job.target.app());
    let known = known(job, journal).await?;
    let state = ApplicationState::read(&job.source, target, &job.wishes, !known.is_empty()).await?;
    let mut findings = state.findings();
    let gone = state.source_is_gone();
    let ours = match journal {
        Some(journal) => application::origin(journal, target_app).await? == Some(Origin::Ours),
        None => false,
    };
    // Once they were set, they are the target's.
    let set = match journal {
        Some(journal) => belongings::contacts_are_set(journal, target_app).await?,
        None => false,
    };
    let contacts = state.contacts(ours && !set, job.owner.as_ref(), &job.wishes);
    findings.extend(contacts.findings);
    if let (Some(source), false) = (job.source.tts(), gone) {
        findings.extend(rights("source", source.stack(), app, SOURCE_RIGHTS).await?);
    }
    if !state.is_new() {
        findings.extend(rights("target", target, target_app, TARGET_RIGHTS).await?);
    } else if job.owner.is_none() {
        findings.push(
            Finding::new(Kind::Rights, format!("{target_app} is not on the target, and the configuration names no owner"))
                .fix("add owner = { user = \"…\" } or { organization = \"…\" } to the target, or create the application"),
        );
    }
    let one_deployment = match job.source.tts() {
        Some(source) => one_deployment(source.stack(), target, app).await?,
        None => false,
    };
    if one_deployment {
        findings.push(swap(app, target_app, pace.clear));
        findings.extend(job.shape.as_deref().map(takes_the_target_too));
    }
    let mut facts = target.facts(target_app).await?;
    let existing = existing(job, state.is_new()).await?;
    let listed = if gone { Vec::new() } else { job.source.list().await? };
    let (mut inputs, all) = inputs(job, journal, pace.in_flight, &existing, (listed, known)).await?;
    if inputs.is_empty() && !matches!(job.devices, Selection::All) {
        let mut nothing = Finding::new(Kind::NotFound, "no device of the source has an ID that was chosen")
            .fix("check application.devices");
        nothing.severity = Severity::Warning;
        findings.push(nothing);
    }
    if one_deployment {
        // The EUIs that the source itself holds are free once it is deleted.
        for input in &mut inputs {
            let ours = |(holder, id): &(AppId, DeviceId)| holder == app && *id == input.id;
            input.holder.take_if(|h| ours(h));
        }
    }
    facts.renames = plan::identity::renames(all.iter().map(DeviceId::as_str), &job.wishes);
    facts.along = plan::relay::along(&inputs, &facts, &job.wishes);
    mac_defaults(&inputs, job, &mut facts).await?;
    let mut devices = plan::devices(&inputs, &existing, &facts, &job.wishes);
    findings.extend(plan::others(&devices, &existing));
    if findings.iter().any(Finding::blocks) {
        for device in devices.iter_mut().filter(|d| d.verdict != Verdict::Done) {
            device.verdict = Verdict::Stop;
        }
    }
    let exists = !state.is_new();
    let mut belongings =
        belongings::read(job, journal, pace, (!gone, exists), &devices, state.link()).await?;
    belongings.devices = all;
    belongings.set_contacts(target_app, contacts.set);
    findings.append(&mut belongings.findings);
    let plan = ApplicationPlan {
        source: app.clone(),
        target: target_app.clone(),
        create: state.is_new(),
        findings,
        belongings: belongings.plans.clone(),
        devices,
    };
    let mutes_target = !job.source.can_be_muted();
    Ok((plan, Prepared { state, facts: Arc::new(facts), one_deployment, mutes_target, belongings }))
}

/// An application that both sides created at the same moment is one application: then nothing can exist twice.
///
/// # Errors
/// When a side cannot be asked.
pub(super) async fn one_deployment(source: &Stack, target: &Stack, app: &AppId) -> Result<bool, RunError> {
    if source.is.endpoint() == target.is.endpoint() {
        return Ok(true);
    }
    let created = ["created_at".to_owned()];
    let at = |found: Option<DynamicMessage>| found.and_then(|m| path::child(&m, "created_at"));
    let here = at(source.application(app, &created).await?);
    let there = match target.application(app, &created).await {
        Ok(found) => at(found),
        // Not ours to see: another's application on another deployment.
        Err(error) if matches!(error.kind(), wire::Kind::Denied { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(here.is_some() && here == there)
}

/// What a move inside one deployment asks for: another application, and that each device is deleted before it is made.
fn swap(app: &AppId, target_app: &AppId, clear: ClearMode) -> Finding {
    if app == target_app {
        let text =
            "source and target are the same application: what is cleared at the one is gone from the other";
        return Finding::new(Kind::SameApplication, text)
            .fix("name another application as target, or another deployment");
    }
    let text = "source and target are one deployment, in which no device exists twice: each is deleted at the source, \
                from a snapshot that was read twice, before it is created on the target";
    let mut finding = Finding::new(Kind::SameDeployment, text);
    if clear == ClearMode::Delete {
        finding.severity = Severity::Warning;
        finding
    } else {
        finding.fix("set clear.mode = \"delete\" if that is what you want")
    }
}

/// The next run would move what this one has made.
fn takes_the_target_too(shape: &str) -> Finding {
    let text = format!(
        "source and target are one deployment, where `{shape}` takes the applications of the target too"
    );
    Finding::new(Kind::SameDeployment, text).fix("write an [[application]] for each")
}

async fn rights(
    side: &str,
    stack: &Stack,
    app: &AppId,
    needed: &[&str],
) -> Result<Option<Finding>, RunError> {
    let has = stack.rights(app).await?;
    if has.contains("RIGHT_ALL") || has.contains("RIGHT_APPLICATION_ALL") {
        return Ok(None);
    }
    let missing: Vec<_> = needed.iter().filter(|r| !has.contains(**r)).map(|r| (*r).to_owned()).collect();
    Ok((!missing.is_empty()).then(|| {
        Finding::new(Kind::Rights, format!("the API key of the {side} lacks rights on application {app}"))
            .paths(missing)
            .fix(format!(
                "in the Console of the {side}: Applications, {app}, API keys: give the key these rights"
            ))
    }))
}

/// The IS records of the target application, by device ID.
async fn existing(job: &Job, is_new: bool) -> Result<HashMap<String, Record>, RunError> {
    if is_new {
        return Ok(HashMap::new());
    }
    let records = job.target.stack().list_devices(job.target.app(), &owner::whole(Component::Is)).await?;
    Ok(records.into_iter().map(|r| (r.device_id(), r)).collect())
}

/// The devices of the application that the journal has entries of; without an ID the application itself.
async fn known(job: &Job, journal: Option<&JournalHandle>) -> Result<Vec<DeviceId>, RunError> {
    let Some(journal) = journal else { return Ok(Vec::new()) };
    let all = journal.read(|j| j.devices()).await?.into_iter();
    Ok(all.filter(|k| k.application == *job.source.app()).map(|k| k.device).collect())
}

/// Everything that is read of each selected device; and the IDs of all devices, chosen or not.
async fn inputs(
    job: &Job,
    journal: Option<&JournalHandle>,
    in_flight: usize,
    existing: &HashMap<String, Record>,
    (listed, known): (Vec<Found>, Vec<DeviceId>),
) -> Result<(Vec<Input>, Vec<DeviceId>), RunError> {
    let by_id = |found: Found| (DeviceId::unchecked(plan::transform::device_id(&found)), found);
    let mut listed: HashMap<DeviceId, Found> = listed.into_iter().map(by_id).collect();
    // What an earlier run began goes on, also when the source no longer lists it.
    let known = known.into_iter().filter(|d| !d.as_str().is_empty());
    let mut ids: Vec<_> = listed.keys().cloned().chain(known).collect();
    ids.sort();
    ids.dedup();
    let selected = job.select(&ids);
    let work: Vec<_> = selected.into_iter().map(|id| (listed.remove(&id).unwrap_or_default(), id)).collect();
    let inputs = stream::iter(work)
        .map(|(found, id)| input(job, journal, existing, id, found))
        .buffer_unordered(in_flight.max(1))
        .try_collect()
        .await?;
    Ok((inputs, ids))
}

async fn input(
    job: &Job,
    journal: Option<&JournalHandle>,
    existing: &HashMap<String, Record>,
    id: DeviceId,
    listed: Found,
) -> Result<Input, RunError> {
    let begun = match journal {
        Some(journal) => begun(journal, job.source.app(), &id).await?,
        None => None,
    };
    if begun.is_some() {
        // What V2 lists of it tells which MAC defaults it needs when it is copied anew.
        let found = Found { v2: listed.v2, ..Found::default() };
        return Ok(Input { id, found, begun, holder: None });
    }
    let found = job.source.read(&id, listed).await?;
    let holder = holder(job, &found, existing).await?;
    Ok(Input { id, found, begun, holder })
}

async fn begun(journal: &JournalHandle, app: &AppId, id: &DeviceId) -> Result<Option<Begun>, RunError> {
    let key = DeviceKey { application: app.clone(), device: id.clone() };
    let log = DeviceLog::open(journal.clone(), key).await?;
    let state = log.state();
    Ok(state.recipe().map(|recipe| Begun {
        target_id: recipe.target_id.clone(),
        state: state.name(),
        finished: state.is_finished(),
    }))
}

/// Who has the EUIs on the target; not asked when the target application lists them under one of its devices.
async fn holder(
    job: &Job,
    found: &Found,
    existing: &HashMap<String, Record>,
) -> Result<Option<(AppId, DeviceId)>, RunError> {
    let records = || found.records.present().map(|(_, r)| r);
    let (Some(join_eui), Some(dev_eui)) =
        (records().find_map(Record::join_eui), records().find_map(Record::dev_eui))
    else {
        return Ok(None);
    };
    let same = |r: &&Record| r.join_eui() == Some(join_eui) && r.dev_eui() == Some(dev_eui);
    if let Some(record) = existing.values().find(same) {
        return Ok(Some((job.target.app().clone(), DeviceId::unchecked(record.device_id()))));
    }
    Ok(job.target.holder(join_eui, dev_eui).await?)
}

/// MAC defaults of both sides for the plans and PHY versions of devices that have a session. V2 has none of its own: it used
/// those of the band.
async fn mac_defaults(inputs: &[Input], job: &Job, facts: &mut TargetFacts) -> Result<(), RunError> {
    let pairs: BTreeSet<_> = inputs.iter().filter_map(|i| defaults_needed(&i.found, job)).collect();
    for (source_plan, plan, phy) in pairs {
        let theirs = job.target.stack().default_mac_settings(&plan, phy).await?;
        let ours = match job.source.tts() {
            Some(source) => source.stack().default_mac_settings(&source_plan, phy).await?,
            None => theirs.clone(),
        };
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            facts.mac_defaults.insert((plan, phy), (ours, theirs));
        }
    }
    Ok(())
}

/// Plan at the source, plan on the target and PHY version of a device that has a session.
fn defaults_needed(found: &Found, job: &Job) -> Option<(String, String, i32)> {
    if found.v2.is_some() {
        return plan::ttn_v2::defaults_needed(found, &job.wishes)
            .map(|(plan, phy)| (String::new(), plan, phy));
    }
    let ns = found.records.ns.as_ref().filter(|ns| path::has(&ns.0, "session"))?;
    let phy = i32::try_from(path::number(&ns.0, "lorawan_phy_version")).ok()?;
    Some((path::string(&ns.0, "frequency_plan_id"), radio::plan_for(ns, &job.wishes)?, phy))
}
