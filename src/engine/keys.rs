//! API keys that are made on the target for something of the journal: there, and back. The server tells a key once: it is
//! sealed before anything else, and one that was made and not recorded is found by its name, deleted, and made anew (S5).

use super::{
    belongings::log::ItemLog,
    device::{Trouble, retry, trouble},
    guarded::Guarded,
};
use crate::{
    model::belonging::ItemKey,
    step::belonging::{ItemEvent, ItemStep},
    tts::{
        Stack,
        keys::{KeyOrder, KeyOwner},
    },
    wire,
};

/// Makes the API key of `item`. The inner result is that of the call.
///
/// # Errors
/// When the journal fails, or keys of an earlier attempt cannot be looked for.
pub async fn make(
    log: &ItemLog,
    target: &Guarded<Stack>,
    item: &ItemKey,
    order: &KeyOrder<'_>,
) -> Result<Result<(), wire::Error>, Trouble> {
    if log.state(item).is_open(ItemStep::Key) {
        delete_orphans(target, order).await?;
    }
    log.step(item, ItemStep::Key, false).await?;
    match target.create_key(order).await {
        Ok(key) => {
            let seal = log.seal_key(&key.secret).await?;
            log.record(&ItemEvent::Keyed { item: item.clone(), id: key.id, seal }).await?;
            Ok(Ok(()))
        }
        Err(error) => {
            log.failed(item, ItemStep::Key, &error).await?;
            Ok(Err(error))
        }
    }
}

/// Deletes the API key of `item`, also one that was made and not recorded. `is_there`: its owner is on the target.
///
/// # Errors
/// When the journal or a call fails.
pub async fn remove(
    log: &ItemLog,
    target: &Guarded<Stack>,
    item: &ItemKey,
    order: &KeyOrder<'_>,
    is_there: bool,
) -> Result<(), Trouble> {
    let state = log.state(item);
    let open = state.is_open(ItemStep::Key);
    if state.key().is_none() && !open {
        return Ok(());
    }
    log.step(item, ItemStep::RemoveKey, false).await?;
    if is_there && open {
        delete_orphans(target, order).await?;
    }
    if let Some((id, _)) = state.key().filter(|_| is_there) {
        delete(log, target, item, order.owner, id).await?;
    }
    Ok(log.step(item, ItemStep::RemoveKey, true).await?)
}

async fn delete(
    log: &ItemLog,
    target: &Guarded<Stack>,
    item: &ItemKey,
    owner: KeyOwner<'_>,
    id: &str,
) -> Result<(), Trouble> {
    if let Err(error) = target.delete_key(owner, id).await {
        log.failed(item, ItemStep::RemoveKey, &error).await?;
        return Err(trouble(&error));
    }
    Ok(())
}

/// Deletes keys of this order that are in no journal.
///
/// # Errors
/// When a call fails.
pub async fn delete_orphans(target: &Guarded<Stack>, order: &KeyOrder<'_>) -> Result<(), Trouble> {
    for id in target.side().keys_of_order(order).await.map_err(retry)? {
        target.delete_key(order.owner, &id).await.map_err(retry)?;
    }
    Ok(())
}
