//! The way back: gateways that a run of this journal has made are deleted on the target, unless somebody has edited or connected
//! them since. The source was never changed.

use super::{GatewayKeeper, LNS_SECRET, MESSAGE, key_item, known, last_write};
use crate::{
    engine::{
        device::{Trouble, retry},
        event::Outcome,
        keys,
        log::LogError,
    },
    model::{belonging::ItemKey, gateway::GatewayKey},
    plan::{
        finding::{Finding, Kind},
        gateways,
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
}

impl GatewayKeeper<'_> {
    /// What would be deleted, and what not. Changes nothing.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn survey(&self) -> Result<Vec<GatewayReturn>, LogError> {
        let mut returns = Vec::new();
        for (item, state) in known(&self.log) {
            if state.is_matched() {
                continue;
            }
            let target_id = self.log.sealed_as(MESSAGE, &item).await?.target_name;
            let stays = match self.may_go(&item).await {
                Ok(_) => None,
                Err(Trouble::Block(finding) | Trouble::Refuse(finding)) => Some(finding),
                Err(Trouble::Fatal(error)) => return Err(error),
                Err(Trouble::Retry { why, .. } | Trouble::Wait(why)) => {
                    Some(Finding::new(Kind::Refused, format!("gateway {}: {why}", item.id)))
                }
            };
            returns.push(GatewayReturn { id: item.id, target_id, stays });
        }
        Ok(returns)
    }

    /// Deletes those that may go.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn take_back(&self) -> Result<(), LogError> {
        for (item, state) in known(&self.log) {
            let back = if state.is_matched() { self.forget(&item).await } else { self.remove(&item).await };
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
        let mut paths = gateways::differences(&last, &there);
        if self.log.state(item).is_open(ItemStep::Remove) {
            // A rollback was interrupted: it had looked, and the key that CUPS hands out may be gone.
            paths.retain(|p| !p.starts_with(LNS_SECRET));
        }
        let unfinished =
            !self.log.state(item).is_there() && gateways::differences(&sealed.write, &there).is_empty();
        let stays = |text: &str| Finding::new(Kind::ChangedMeanwhile, format!("gateway {}: {text}", item.id));
        if !paths.is_empty() && !unfinished {
            let text = "it was edited on the target since it was registered, and stays there";
            return Err(Trouble::Block(
                stays(text).paths(paths).fix("delete it there by hand if nobody needs it"),
            ));
        }
        if self.target.side().gateway_connection(id).await.map_err(retry)?.is_some() {
            let text = "it has connected to the target, and stays there";
            return Err(Trouble::Block(
                stays(text)
                    .fix("connect it to the source again, delete it there by hand, then roll back again"),
            ));
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
