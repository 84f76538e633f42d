//! The way back: what was changed at the source is put back there, and gateways that a run of this journal has made are deleted
//! on the target, unless somebody has edited them since, or they are connected there.

use std::collections::BTreeSet;

use super::{GatewayKeeper, LNS_SECRET, MESSAGE, is_connected, key_item, known, last_write};
use crate::{
    engine::{
        device::{Trouble, retry},
        event::Outcome,
        keys,
        log::LogError,
    },
    journal::DeviceKey,
    model::{belonging::ItemKey, gateway::GatewayKey},
    plan::{
        finding::{Finding, Kind},
        gateways::{self, redirect::REDIRECT},
    },
    step::belonging::{ItemEvent, ItemStep},
};

/// What a rollback will do about one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayReturn {
    /// Its ID at the source.
    pub id: String,
    /// Its ID on the target.
    pub target_id: String,
    /// Why it stays.
    pub stays: Option<Finding>,
    /// True when a run has made it on the target.
    pub made: bool,
    /// True when it was deleted at the source, which restores it if it still can.
    pub restored: bool,
    /// True when the source's CUPS is told to send it to the target, and will be told so no more.
    pub redirected: bool,
}

impl GatewayKeeper<'_> {
    /// What would be deleted, and what not. Changes nothing.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn survey(&self) -> Result<Vec<GatewayReturn>, LogError> {
        let mut returns = Vec::new();
        for (item, state) in known(&self.log) {
            if state.is_matched() && !state.source_changed() {
                continue;
            }
            let target_id = self.log.sealed_as(MESSAGE, &item).await?.target_name;
            let made = !state.is_matched();
            let (restored, redirected) =
                (state.touched(ItemStep::DeleteSource), state.touched(ItemStep::Redirect));
            let stays = match self.may_go(&item).await {
                _ if !made => None,
                Ok(_) => None,
                Err(Trouble::Block(finding) | Trouble::Refuse(finding)) => Some(finding),
                Err(Trouble::Fatal(error)) => return Err(error),
                Err(Trouble::Retry { why, .. } | Trouble::Wait(why)) => {
                    Some(Finding::new(Kind::Refused, format!("gateway {}: {why}", item.id)))
                }
            };
            returns.push(GatewayReturn { id: item.id, target_id, stays, made, restored, redirected });
        }
        Ok(returns)
    }

    /// IDs of those that were changed at the source, or may have been.
    pub fn changed_at_source(&self) -> BTreeSet<String> {
        let changed = known(&self.log).into_iter().filter(|(_, state)| state.source_changed());
        changed.map(|(item, _)| item.id).collect()
    }

    /// Leaves those that a run has made on the target, where this device still is.
    pub fn keep(&self, device: &DeviceKey) {
        for (item, _) in known(&self.log).into_iter().filter(|(_, state)| !state.is_matched()) {
            let until =
                format!("it stays on the target until all devices are back at the source: {device} is not");
            self.ended(&item.id, Outcome::Waiting(until));
        }
    }

    /// Puts back what was changed at the source: before the devices come back there, which need them.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn restore_source(&self) -> Result<(), LogError> {
        for (item, _) in known(&self.log).into_iter().filter(|(_, state)| state.source_changed()) {
            if let Err(trouble) = self.give_back(&item).await {
                self.settle(&item.id, Err(trouble))?;
            }
        }
        Ok(())
    }

    /// Deletes those that may go.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn take_back(&self) -> Result<(), LogError> {
        for (item, state) in known(&self.log) {
            // One that the source lacks stays on the target (S3).
            let back = match self.give_back(&item).await {
                Err(trouble) => Err(trouble),
                Ok(()) if state.is_matched() => self.forget(&item).await,
                Ok(()) => self.remove(&item).await,
            };
            self.settle(&item.id, back)?;
        }
        Ok(())
    }

    /// True when it is on the target; an error when it has to stay there.
    async fn may_go(&self, item: &ItemKey) -> Result<bool, Trouble> {
        if !self.log.state(item).touched(ItemStep::Create) {
            return Ok(false);
        }
        let sealed = self.log.sealed_as(MESSAGE, item).await?;
        let id = &sealed.target_name;
        let Some(there) = self.target.side().gateway(id, &gateways::whole()).await.map_err(retry)? else {
            return Ok(false);
        };
        let last = last_write(&self.log, item, &sealed.write).await?;
        let mut paths = gateways::edited(&last, &there);
        if self.log.state(item).is_open(ItemStep::Remove) {
            // A rollback was interrupted: it had looked, and the key that CUPS hands out may be gone.
            paths.retain(|p| !p.starts_with(LNS_SECRET));
        }
        // By these the target's CUPS sends it back.
        paths.retain(|p| !REDIRECT.iter().any(|field| p.starts_with(field)));
        let unfinished =
            !self.log.state(item).is_there() && gateways::edited(&sealed.write, &there).is_empty();
        let stays = |text: &str| Finding::new(Kind::ChangedMeanwhile, format!("gateway {}: {text}", item.id));
        if !paths.is_empty() && !unfinished {
            let text = "it was edited on the target since it was registered, and stays there";
            return Err(Trouble::Block(
                stays(text).paths(paths).fix("delete it there by hand if nobody needs it"),
            ));
        }
        let connection = self.target.side().gateway_connection(id, None).await.map_err(retry)?;
        if connection.is_some_and(|stats| is_connected(&stats)) {
            let text = "it is connected to the target, and stays there";
            let fix = if self.job.wishes.cups_redirect {
                "set target_cups_uri and target_cups_key of the target's record to the CUPS of the source and a key for it \
                 there, and roll back again when it has gone"
            } else {
                "connect it to the source again, then roll back again"
            };
            return Err(Trouble::Block(stays(text).fix(fix)));
        }
        Ok(true)
    }

    async fn remove(&self, item: &ItemKey) -> Result<Outcome, Trouble> {
        let is_there = self.may_go(item).await?;
        let id = self.log.sealed_as(MESSAGE, item).await?.target_name;
        if is_there {
            self.log.step(item, ItemStep::Remove, false).await?;
        }
        for kind in [GatewayKey::Lns, GatewayKey::Cups] {
            self.remove_key(item, &id, kind, is_there).await?;
        }
        if self.log.state(item).touched(ItemStep::Create) {
            if is_there {
                if let Err(error) = self.target.delete_gateway(&id).await {
                    self.log.failed(item, ItemStep::Remove, &error).await?;
                    return Err(retry(error));
                }
                // A gateway of ours leaves no other trace than its ID.
                if self.target.side().gateway(&id, &["ids".to_owned()]).await.map_err(retry)?.is_some() {
                    return Err(Trouble::Retry {
                        why: "it is still there after it was deleted".into(),
                        maybe_applied: true,
                    });
                }
            }
            self.log.step(item, ItemStep::Remove, true).await?;
        }
        self.forget(item).await
    }

    /// Records the end of a removal that was done and not recorded.
    pub(super) async fn is_gone(&self, item: &ItemKey, id: &str) -> Result<(), Trouble> {
        for kind in [GatewayKey::Lns, GatewayKey::Cups] {
            self.remove_key(item, id, kind, false).await?;
        }
        self.log.step(item, ItemStep::Remove, true).await?;
        self.forget(item).await.map(drop)
    }

    async fn remove_key(
        &self,
        of: &ItemKey,
        id: &str,
        kind: GatewayKey,
        is_there: bool,
    ) -> Result<(), Trouble> {
        let item = key_item(&of.id, kind);
        if self.log.state(&item).seal().is_none() {
            return Ok(());
        }
        keys::remove(&self.log, &self.target, &item, &self.order(&of.id, id, kind), is_there).await?;
        Ok(self.log.record(&ItemEvent::ItemUndone { item }).await?)
    }

    async fn forget(&self, item: &ItemKey) -> Result<Outcome, Trouble> {
        self.log.record(&ItemEvent::ItemUndone { item: item.clone() }).await?;
        Ok(Outcome::RolledBack)
    }
}
