//! The redirect: the source's CUPS is told to send a gateway to the target's, once the target has it with all that its CUPS
//! needs; and the way back at the source.

use prost_reflect::DynamicMessage;

use super::{GatewayJob, GatewayKeeper, LNS_SECRET, MESSAGE, key_item, last_write};
use crate::{
    engine::{
        belongings::log::ItemLog,
        device::{Trouble, retry},
        event::Event,
        guarded::Guarded,
        log::LogError,
    },
    model::{belonging::ItemKey, gateway::GatewayKey},
    plan::{
        belongings::sealed::Sealed,
        finding::{Finding, Kind},
        gateways::{
            self, Facts, Found,
            redirect::{self, REDIRECT, Redirect},
        },
        transform::Write,
    },
    step::belonging::ItemStep,
    tts::Stack,
    wire,
};

/// What is left to do about the redirect of a gateway of the journal.
///
/// # Errors
/// When the journal cannot be read.
pub(super) async fn left(job: &GatewayJob, log: &ItemLog, item: &ItemKey) -> Result<Redirect, LogError> {
    let state = log.state(item);
    if state.has(ItemStep::Redirect) {
        return Ok(Redirect::There);
    }
    if !job.wishes.cups_redirect || job.source.is_none() || state.touched(ItemStep::DeleteSource) {
        return Ok(Redirect::Off);
    }
    if state.is_matched() {
        return Ok(redirect::without_keys(Redirect::Set));
    }
    let message = log.sealed_as(MESSAGE, item).await?.found;
    let found = Found { id: item.id.clone(), message, secrets: true };
    let facts = Facts { gateway_server: job.target.gateway_server.clone(), ..Facts::default() };
    Ok(match redirect::decide(&found, &facts, &job.wishes) {
        Redirect::Set if !state.is_held() => Redirect::Not(
            "its LNS secret on the target is no key of this run: it was registered without cups-redirect",
        ),
        decided => decided,
    })
}

impl GatewayKeeper<'_> {
    /// The source, to which gateways belong that are told anything there.
    pub(super) fn source(&self) -> Result<&Guarded<Stack>, Trouble> {
        let none = || Trouble::Retry { why: "the source has no gateways".to_owned(), maybe_applied: false };
        self.source.as_ref().ok_or_else(none)
    }

    /// The gateway as the source has it.
    pub(super) async fn at_source(&self, id: &str) -> Result<Option<DynamicMessage>, Trouble> {
        match self.source()?.side().gateway(id, &gateways::whole()).await {
            Err(error) if matches!(error.kind(), wire::Kind::Denied { .. }) => Err(denied(id, &error)),
            found => found.map_err(retry),
        }
    }

    /// Where the gateway at the source is not as it was sealed. That it is sent to the target does not count where we did that.
    pub(super) async fn edits(
        &self,
        item: &ItemKey,
        sealed: &Sealed,
        now: &DynamicMessage,
    ) -> Result<Vec<String>, LogError> {
        let was = Write { message: sealed.found.clone(), paths: Vec::new() };
        let mut paths = gateways::edited(&was, now);
        let ours = self.redirection(item).await?;
        if ours.is_some_and(|ours| redirect::is_so(&ours, now)) {
            paths.retain(|path| !REDIRECT.iter().any(|field| path.starts_with(field)));
        }
        Ok(paths)
    }

    /// What we write to the source so that its CUPS sends a gateway to the target; nothing without a key for the CUPS there.
    async fn redirection(&self, item: &ItemKey) -> Result<Option<Write>, LogError> {
        let key = self.log.key(&key_item(&item.id, GatewayKey::Cups)).await?;
        let host = &self.job.target.gateway_server;
        Ok(key.map(|key| redirect::there(&item.id, host, key.reveal())))
    }

    /// Tells the source's CUPS to send the gateway to the target's.
    pub(super) async fn redirect(&self, item: &ItemKey, sealed: &Sealed) -> Result<(), Trouble> {
        let ours = self.fit_for_cups(item, sealed).await?;
        let id = &item.id;
        let of = |text: &str| {
            let text = format!("gateway {id}: {text}: its CUPS is not told to send it to the target");
            Finding::new(Kind::ChangedMeanwhile, text)
        };
        let by_hand = "change its own settings: the summary says to what";
        let Some(now) = self.at_source(id).await? else {
            return Err(Trouble::Block(of("it is gone from the source").fix(by_hand)));
        };
        if !redirect::is_so(&ours, &now) {
            let paths = self.edits(item, sealed, &now).await?;
            if !paths.is_empty() {
                let finding = of("it was edited at the source since it was planned").paths(paths);
                return Err(Trouble::Block(finding.fix(by_hand)));
            }
            self.log.step(item, ItemStep::Redirect, false).await?;
            if let Err(error) = self.source()?.update_gateway(id, &ours).await {
                self.log.failed(item, ItemStep::Redirect, &error).await?;
                return Err(match error.kind() {
                    wire::Kind::Denied { .. } => denied(id, &error),
                    _ => retry(error),
                });
            }
            let now = self.at_source(id).await?;
            if !now.is_some_and(|now| redirect::is_so(&ours, &now)) {
                let why = "the source does not hold the address and the key of the target's CUPS after they were written";
                return Err(Trouble::Retry { why: why.to_owned(), maybe_applied: true });
            }
        }
        self.log.step(item, ItemStep::Redirect, true).await?;
        self.events.send(Event::Note(format!("gateway {id}: the source's CUPS sends it to the target")));
        Ok(())
    }

    /// The target has all that its CUPS needs once the gateway asks: the gateway by its EUI, the key for CUPS, and the key for
    /// the LNS to hand out. Answers what is written to the source.
    async fn fit_for_cups(&self, item: &ItemKey, sealed: &Sealed) -> Result<Write, Trouble> {
        let id = &sealed.target_name;
        let cups = self.log.state(&key_item(&item.id, GatewayKey::Cups));
        let order = self.order(&item.id, id, GatewayKey::Cups);
        let keys = self.target.side().keys_of_order(&order).await.map_err(retry)?;
        let has_key = cups.key().is_some_and(|(key, _)| keys.contains(key));
        let there = self.target.side().gateway(id, &gateways::whole()).await.map_err(retry)?;
        let written = last_write(&self.log, item, &sealed.write).await?;
        let mut paths =
            there.map_or_else(|| vec!["ids".to_owned()], |there| gateways::edited(&written, &there));
        paths.retain(|path| path.starts_with("ids") || path.starts_with(LNS_SECRET));
        match self.redirection(item).await? {
            Some(ours) if has_key && paths.is_empty() => Ok(ours),
            _ => {
                let text = format!(
                    "gateway {}: the target's CUPS would not serve it: it, its LNS secret or its key for CUPS was changed there",
                    item.id
                );
                let finding = Finding::new(Kind::ChangedMeanwhile, text).paths(paths);
                Err(Trouble::Block(finding.fix("delete it on the target by hand, roll back, and run again")))
            }
        }
    }

    /// Puts a gateway back at the source as it was: restored where we have deleted it, with its EUI, and no longer sent to the
    /// target. What somebody has changed there since stays.
    pub(super) async fn give_back(&self, item: &ItemKey) -> Result<(), Trouble> {
        let state = self.log.state(item);
        if !state.source_changed() {
            return Ok(());
        }
        let sealed = self.log.sealed_as(MESSAGE, item).await?;
        let was_deleted = state.touched(ItemStep::DeleteSource);
        let mut now = self.at_source(&item.id).await?;
        let mut begun = false;
        if was_deleted && now.is_none() {
            self.log.step(item, ItemStep::RestoreSource, false).await?;
            begun = true;
            self.restore(item).await?;
            now = self.at_source(&item.id).await?;
        }
        let Some(now) = now else {
            if was_deleted {
                return Err(too_late(&item.id));
            }
            self.note(&item.id, "somebody has deleted it at the source: there is nothing to put back");
            return Ok(self.log.step(item, ItemStep::RestoreSource, true).await?);
        };
        let write = self.missing_at_source(item, &sealed, &now, was_deleted).await?;
        if !write.paths.is_empty() {
            if !begun {
                self.log.step(item, ItemStep::RestoreSource, false).await?;
            }
            if let Err(error) = self.source()?.update_gateway(&item.id, &write).await {
                self.log.failed(item, ItemStep::RestoreSource, &error).await?;
                return Err(not_put_back(&item.id, error));
            }
            let there = self.at_source(&item.id).await?;
            let is_so = there.is_some_and(|there| is_written(&write, &there));
            if !is_so {
                let why = "the source does not hold what was put back";
                return Err(Trouble::Retry { why: why.to_owned(), maybe_applied: true });
            }
        }
        Ok(self.log.step(item, ItemStep::RestoreSource, true).await?)
    }

    /// Takes the deletion back, as long as the source does so.
    async fn restore(&self, item: &ItemKey) -> Result<(), Trouble> {
        let Err(error) = self.source()?.restore_gateway(&item.id).await else { return Ok(()) };
        self.log.failed(item, ItemStep::RestoreSource, &error).await?;
        Err(match error.kind() {
            wire::Kind::FailedPrecondition => too_late(&item.id),
            _ => not_put_back(&item.id, error),
        })
    }

    /// What the source lacks of what was sealed.
    async fn missing_at_source(
        &self,
        item: &ItemKey,
        sealed: &Sealed,
        now: &DynamicMessage,
        was_deleted: bool,
    ) -> Result<Write, Trouble> {
        let back = redirect::back(&sealed.found);
        let mut write = Write { message: back.message.clone(), paths: Vec::new() };
        if self.log.state(item).touched(ItemStep::Redirect) && !redirect::is_so(&back, now) {
            let ours = self.redirection(item).await?;
            if ours.is_some_and(|ours| redirect::is_so(&ours, now)) {
                write.paths = back.paths;
            } else {
                self.note(&item.id, "where the source's CUPS sends it was edited there since, and stays");
            }
        }
        let eui = gateways::eui(&sealed.found);
        if let Some(eui) = eui.filter(|_| was_deleted && gateways::eui(now).is_none()) {
            let bytes = prost_reflect::Value::Bytes(eui.0.to_vec().into());
            crate::map::path::set(&mut write.message, "ids.eui", bytes);
            write.paths.push("ids.eui".to_owned());
        }
        Ok(write)
    }

    fn note(&self, id: &str, text: &str) {
        self.events.send(Event::Note(format!("gateway {id}: {text}")));
    }
}

fn is_written(write: &Write, there: &DynamicMessage) -> bool {
    write.paths.iter().all(|path| match path.as_str() {
        "ids.eui" => gateways::eui(&write.message) == gateways::eui(there),
        _ => redirect::is_so(write, there),
    })
}

fn denied(id: &str, error: &wire::Error) -> Trouble {
    let text = format!("gateway {id}: the source refused: {}", error.message());
    let fix = "give the key of a user or an organization the rights to see and change it, and name it in gateways.api-key";
    Trouble::Block(Finding::new(Kind::Rights, text).fix(fix))
}

fn too_late(id: &str) -> Trouble {
    let text = format!("gateway {id}: the source does not restore it any more");
    let fix = "have an administrator of the source purge it, register it there by hand, then roll back again";
    Trouble::Block(Finding::new(Kind::Refused, text).fix(fix))
}

fn not_put_back(id: &str, error: wire::Error) -> Trouble {
    match error.kind() {
        wire::Kind::Denied { .. } => denied(id, &error),
        wire::Kind::AlreadyExists => {
            let text = format!("gateway {id}: another gateway of the source has its EUI by now");
            let fix = "free the EUI there, then roll back again";
            Trouble::Block(Finding::new(Kind::GatewayEuiTaken, text).fix(fix))
        }
        _ => retry(error),
    }
}
