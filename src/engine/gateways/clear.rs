//! The clear of gateways: deleted at the source, after all else, each once the target has it connected and the source has not.

use super::{GatewayKeeper, MESSAGE, is_connected, known, last_write};
use crate::{
    engine::{
        device::{Trouble, retry},
        event::{Event, Outcome},
        log::LogError,
    },
    model::belonging::ItemKey,
    plan::{
        finding::{Finding, Kind},
        gateways,
    },
    step::belonging::{ItemState, ItemStep},
};

/// True for one that the clear would delete at the source.
pub(super) fn is_to_go(state: &ItemState) -> bool {
    state.is_there() && !state.has(ItemStep::DeleteSource)
}

impl GatewayKeeper<'_> {
    /// True when there is one to delete.
    pub fn has_to_clear(&self) -> bool {
        known(&self.log).iter().any(|(_, state)| is_to_go(state))
    }

    /// Deletes them at the source. `unfinished`: until when they all wait.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn clear(&self, unfinished: Option<String>) -> Result<(), LogError> {
        for (item, _) in known(&self.log).into_iter().filter(|(_, state)| is_to_go(state)) {
            let cleared = match &unfinished {
                Some(until) => Err(wait(until)),
                None => self.clear_one(&item).await,
            };
            self.settle(&item.id, cleared)?;
        }
        Ok(())
    }

    async fn clear_one(&self, item: &ItemKey) -> Result<Outcome, Trouble> {
        let sealed = self.log.sealed_as(MESSAGE, item).await?;
        let id = &item.id;
        let Some(now) = self.at_source(id).await? else {
            // By us, in a call whose end was not recorded; or by somebody else, who may have it back.
            if self.log.state(item).is_open(ItemStep::DeleteSource) {
                self.log.step(item, ItemStep::DeleteSource, true).await?;
                return Ok(Outcome::Done);
            }
            return Ok(Outcome::Already);
        };
        let changed = |text: &str, paths: Vec<String>| {
            let finding = Finding::new(Kind::ChangedMeanwhile, format!("gateway {id}: {text}")).paths(paths);
            Trouble::Block(finding.fix("delete it at the source by hand, if it is to go"))
        };
        let paths = self.edits(item, &sealed, &now).await?;
        if !paths.is_empty() {
            return Err(changed("it was edited at the source since it was copied, and stays there", paths));
        }
        let there =
            self.target.side().gateway(&sealed.target_name, &gateways::whole()).await.map_err(retry)?;
        let written = last_write(&self.log, item, &sealed.write).await?;
        let paths =
            there.map_or_else(|| vec!["it is gone".to_owned()], |there| gateways::edited(&written, &there));
        if !paths.is_empty() {
            let text = "the target's is not as it was written: the source keeps its own";
            return Err(changed(text, paths));
        }
        let connection =
            self.target.side().gateway_connection(&sealed.target_name, None).await.map_err(retry)?;
        if !connection.is_some_and(|stats| is_connected(&stats)) {
            return Err(wait("the target has it connected"));
        }
        let connection = self.source()?.side().gateway_connection(id, None).await.map_err(retry)?;
        if connection.is_some_and(|stats| is_connected(&stats)) {
            return Err(wait("it is connected to the target alone: the source has it connected, too"));
        }
        self.delete(item).await
    }

    async fn delete(&self, item: &ItemKey) -> Result<Outcome, Trouble> {
        self.log.step(item, ItemStep::DeleteSource, false).await?;
        if let Err(error) = self.source()?.delete_gateway(&item.id).await {
            self.log.failed(item, ItemStep::DeleteSource, &error).await?;
            return Err(retry(error));
        }
        if self.at_source(&item.id).await?.is_some() {
            let why = "it is still at the source after it was deleted there";
            return Err(Trouble::Retry { why: why.to_owned(), maybe_applied: true });
        }
        self.log.step(item, ItemStep::DeleteSource, true).await?;
        self.events.send(Event::Note(format!("gateway {}: deleted at the source", item.id)));
        Ok(Outcome::Done)
    }
}

fn wait(until: &str) -> Trouble {
    Trouble::Wait(format!("it stays at the source until {until} (clear.gateways)"))
}
