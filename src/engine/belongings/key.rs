//! The API keys of belongings: of a webhook one for downlinks, of an API key the copy itself.

use std::borrow::Cow;

use prost_reflect::Value;

use super::{Keeper, carry::denied, sort_of};
use crate::{
    engine::{
        device::{Trouble, trouble},
        keys,
    },
    map::path,
    model::belonging::ItemKey,
    plan::{
        belongings::{Ids, KEY_RIGHT, Sort, rights},
        finding::{Finding, Kind},
    },
    step::belonging::ItemStep,
    tts::keys::{KeyOrder, KeyOwner},
    wire,
};

impl Keeper {
    /// Makes the API key of one that needs one.
    pub(super) async fn make_key(&self, item: &ItemKey, sort: &Sort) -> Result<(), Trouble> {
        if self.log.state(item).is_open(ItemStep::RemoveKey) {
            self.remove_key(item).await?;
        }
        let state = self.log.state(item);
        if !state.wants_key() || state.key().is_some() {
            return Ok(());
        }
        let order = self.order(item).await?;
        let Err(error) = keys::make(&self.log, &self.target, item, &order).await? else { return Ok(()) };
        if !matches!(error.kind(), wire::Kind::Denied { .. }) {
            return Err(trouble(&error));
        }
        Err(Trouble::Refuse(if sort.ids == Ids::Key {
            denied(item, &error)
        } else {
            Finding::new(Kind::DownlinkKey, format!("{item}: {}", error.message())).fix(
                "give the target's API key RIGHT_APPLICATION_SETTINGS_API_KEYS and \
                 RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE, or allow it: allow-loss = [\"downlink-key\"]",
            )
        }))
    }

    /// The API key that is made for one.
    async fn order(&self, item: &ItemKey) -> Result<KeyOrder<'_>, Trouble> {
        let sort = sort_of(item)?;
        let (mut rights, mut expires_at) = (rights::value([KEY_RIGHT]), None);
        if sort.ids == Ids::Key {
            let sealed = self.log.sealed(sort, item).await?;
            let copy = |at: &str| path::get(&sealed.write.message, at).map(Cow::into_owned);
            rights = copy("rights").unwrap_or_else(|| Value::List(Vec::new()));
            expires_at = copy("expires_at");
        }
        let name = self.log.key_name(item).await?;
        Ok(KeyOrder { owner: KeyOwner::Application(&self.target_app), name, rights, expires_at })
    }

    /// Deletes its API key on the target, also one that was made and not recorded.
    pub(super) async fn remove_key(&self, item: &ItemKey) -> Result<(), Trouble> {
        let state = self.log.state(item);
        if state.key().is_none() && !state.is_open(ItemStep::Key) {
            return Ok(());
        }
        keys::remove(&self.log, &self.target, item, &self.order(item).await?, true).await
    }

    /// The API key that was made is gone, by a rollback that was interrupted or by somebody's hand: another is made.
    pub(super) async fn forget_key(&self, item: &ItemKey) -> Result<(), Trouble> {
        let state = self.log.state(item);
        if state.key().is_none() {
            return Ok(());
        }
        let touched = state.touched(ItemStep::Create);
        for step in touched.then_some(ItemStep::Remove).into_iter().chain([ItemStep::RemoveKey]) {
            self.log.step(item, step, false).await?;
            self.log.step(item, step, true).await?;
        }
        Ok(())
    }
}
