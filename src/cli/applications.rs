//! Which applications a command works on: those that the configuration names, and those that have a shape which it names.

use std::{collections::BTreeSet, io};

use super::{
    Exit, Failure,
    connect::{Place, call, owner, wishes},
};
use crate::{
    config::{self, Config, SecretRef, Selection},
    engine::{
        application::Origin,
        event::Sink,
        run::{Job, Jobs},
    },
    journal::{self, View},
    model::ids::{AppId, is_id},
    plan::failed::FailedApplication,
    source::{any::AnySource, tts::TtsSource},
    target::tts::TtsTarget,
    tts::Stack,
    wire::Side,
};

/// Which of the applications that have a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that the source lists, and those that the journal knows.
    All,
    /// Those that the journal knows.
    Begun,
    /// Those that the journal knows, and the names of the others that the source lists.
    BegunOfAll,
}

/// A block for each application that the configuration takes, with its devices and its shape; and those that have none.
struct Found {
    blocks: Vec<(config::Application, Selection, Option<String>)>,
    failed: Vec<FailedApplication>,
    left: Vec<AppId>,
}

/// Makes the jobs of a command.
///
/// # Errors
/// Secrets that cannot be had, a source that cannot be asked for its only shape, a journal that cannot be read.
pub(super) async fn jobs(
    config: &Config,
    which: Which,
    (source, target): (&Place, &Place),
    events: &Sink,
) -> Result<(Jobs, Vec<config::Application>), Failure> {
    let to = target.stack(Side::Target, config, None, events)?;
    let owner = owner(config, target);
    let mut sources = Sources { config, source, events, known: Vec::new() };
    let Found { blocks, failed, left } = applications(config, which, &mut sources).await?;
    let mut jobs = Jobs { ready: Vec::new(), failed, left };
    for (block, devices, shape) in &blocks {
        if let Some(why) = misplaced(block, &jobs.ready) {
            let fix = "name it as `source` in a block of its own, with another target".to_owned();
            jobs.failed.push(FailedApplication::new(&block.source, &block.target, why, Some(fix)));
            continue;
        }
        let source = match sources.of(block) {
            Ok(source) => source,
            // A key of its own that cannot be had stops one application; that of all stops the command.
            Err(failure) if block.api_key.is_some() || block.access_key.is_some() => {
                let failed = FailedApplication::new(&block.source, &block.target, failure.why(), None);
                jobs.failed.push(failed);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        jobs.ready.push(Job {
            source,
            target: TtsTarget::new(to.clone(), block.target.clone()),
            owner: owner.clone(),
            wishes: wishes(config, block),
            devices: devices.clone(),
            shape: shape.clone(),
            keys_in_use: BTreeSet::new(),
        });
    }
    // A key of one application may be that of another's run, or of another server.
    let of_sources = jobs.ready.iter().filter_map(|job| job.source.tts()).flat_map(TtsSource::stacks);
    let in_use: BTreeSet<_> = of_sources.chain([&to]).filter_map(|stack| stack.is.key_id()).collect();
    for job in &mut jobs.ready {
        job.keys_in_use.clone_from(&in_use);
    }
    Ok((jobs, blocks.into_iter().map(|(block, ..)| block).collect()))
}

/// Why an application cannot go where its shape sends it.
fn misplaced(block: &config::Application, ready: &[Job]) -> Option<String> {
    let target = &block.target;
    if !is_id(target.as_str()) {
        return Some(format!("{target} is no ID that The Things Stack takes"));
    }
    let other = ready.iter().find(|job| job.target.app() == target)?;
    Some(format!("application {} goes to {target} already", other.source.app()))
}

async fn applications(config: &Config, which: Which, sources: &mut Sources<'_>) -> Result<Found, Failure> {
    let mut found = Found { blocks: Vec::new(), failed: Vec::new(), left: Vec::new() };
    let mut first = None;
    let named = config.applications.iter().filter(|block| block.shape.is_none());
    let mut taken: BTreeSet<AppId> = named.map(|block| block.source.clone()).collect();
    let has_shapes = config.applications.iter().any(|block| block.shape.is_some());
    let journal = if has_shapes { view(config)? } else { None };
    for block in &config.applications {
        let devices = block.devices.select(io::stdin());
        let devices = devices
            .map_err(|e| Failure::new(Exit::Usage, format!("application {}: {e}", block.source), None))?;
        if block.shape.is_none() {
            found.blocks.push((block.clone(), devices, None));
            continue;
        }
        let mut ids = match &journal {
            Some(view) => begun(view, config, block)?,
            None => BTreeSet::new(),
        };
        if which != Which::Begun {
            match sources.stack(block.api_key.as_ref())?.applications().await {
                Ok(listed) if which == Which::BegunOfAll => {
                    let left = |id: &AppId| block.takes(id) && !ids.contains(id) && !taken.contains(id);
                    found.left.extend(listed.into_iter().filter(left));
                }
                Ok(listed) => {
                    ids.extend(listed.into_iter().filter(|id| block.takes(id)));
                    if ids.is_empty() {
                        let why = "the API key of the source sees no application of this shape";
                        let fix = "use the API key of a user or an organization with the right to list its applications";
                        let failed =
                            FailedApplication::new(&block.source, &block.target, why, Some(fix.to_owned()));
                        found.failed.push(failed);
                    }
                }
                Err(error) => {
                    let why = format!("its applications cannot be listed: {error}");
                    let failed = FailedApplication::new(&block.source, &block.target, why, error.hint());
                    found.failed.push(failed);
                    first.get_or_insert(error);
                }
            }
        }
        for id in ids {
            if taken.insert(id.clone()) {
                found.blocks.push((block.of(id), devices.clone(), Some(block.source.to_string())));
            }
        }
    }
    match first {
        // There is nothing else to do, or nothing else shall be done.
        Some(error) if found.blocks.is_empty() || config.rollout.stop => Err(call(error)),
        _ => Ok(found),
    }
}

/// The journal, if it is there.
fn view(config: &Config) -> Result<Option<View>, journal::Error> {
    let path = &config.journal.path;
    if View::is_there(path)? { View::open(path).map(Some) } else { Ok(None) }
}

/// The applications of a block that the journal knows: their devices, what belongs to them, or that they were made on the
/// target.
fn begun(
    view: &View,
    config: &Config,
    block: &config::Application,
) -> Result<BTreeSet<AppId>, journal::Error> {
    let devices = view.devices()?.into_iter().map(|key| key.application);
    let made = view.metas(Origin::PLACE)?.into_iter();
    let made = made.filter(|(_, word)| Origin::by_word(word) == Some(Origin::Ours));
    // What a block names is that block's, whatever shapes its ID on the target has.
    let named =
        |target: &str| config.applications.iter().any(|b| b.shape.is_none() && b.target.as_str() == target);
    let made = made.filter(|(target, _)| !named(target));
    let made = made.filter_map(|(target, _)| block.source_of(&AppId::unchecked(target)));
    // Gateways stand under a name that no application has.
    Ok(devices.chain(made).filter(|id| is_id(id.as_str()) && block.takes(id)).collect())
}

/// A deployment, and the other servers that hold records of its devices.
type Deployment = (Stack, Vec<Stack>);

/// The deployment of the source with each key that is used: who shares a key shares connections and rates.
struct Sources<'a> {
    config: &'a Config,
    source: &'a Place,
    events: &'a Sink,
    known: Vec<(Option<SecretRef>, Deployment)>,
}

impl Sources<'_> {
    fn with(&mut self, key: Option<&SecretRef>) -> Result<&Deployment, Failure> {
        let index = match self.known.iter().position(|(known, _)| known.as_ref() == key) {
            Some(index) => index,
            None => {
                self.known.push((key.cloned(), self.source.tts(self.config, key, self.events)?));
                self.known.len() - 1
            }
        };
        Ok(&self.known[index].1)
    }

    fn stack(&mut self, key: Option<&SecretRef>) -> Result<Stack, Failure> {
        Ok(self.with(key)?.0.clone())
    }

    fn of(&mut self, block: &config::Application) -> Result<AnySource, Failure> {
        if let Some(source) = self.source.ttn_v2(self.config, block, self.events)? {
            return Ok(source);
        }
        let (stack, others) = self.with(block.api_key.as_ref())?.clone();
        Ok(AnySource::Tts(TtsSource::new(stack, block.source.clone(), others)))
    }
}
