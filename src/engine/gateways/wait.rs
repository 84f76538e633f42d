//! The wait until the target has the gateways connected, before devices are moved that go on with their session.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout_at};

use super::{GatewayJob, is_connected};
use crate::{
    engine::{
        event::{Event, Outcome, Sink},
        run::Stop,
    },
    plan::{
        belongings::Verdict,
        finding::{Finding, Kind},
        gateways::GatewaysPlan,
    },
    wire,
};

/// How long after an answer the target is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the answers of a look are waited for at least, also of the last one.
const LOOK: Duration = Duration::from_secs(5);
/// Names in one line.
const NAMES: usize = 8;

/// Why the wait that the user wants would be in vain: gateways that were to go along are not registered, or there are none.
/// `outcomes` are those of the registration, by ID at the source.
pub fn in_vain(job: &GatewayJob, plan: &GatewaysPlan, outcomes: &[(String, Outcome)]) -> Option<String> {
    job.wait?;
    if plan.gateways.is_empty() {
        let blocking = plan.findings.iter().find(|finding| finding.blocks())?;
        return Some(format!("{} (gateways.wait)", blocking.text));
    }
    let refused = |id: &str| outcomes.iter().any(|(of, how)| of == id && matches!(how, Outcome::Refused(_)));
    let never = plan.gateways.iter().filter(|g| g.verdict == Verdict::Stop || refused(&g.id));
    let never: BTreeSet<_> = never.map(|gateway| gateway.id.clone()).collect();
    (!never.is_empty())
        .then(|| format!("not all gateways are registered on the target (gateways.wait): {}", some(&never)))
}

/// The finding of a configuration that wants gateways and names none.
pub(super) fn none_chosen() -> Finding {
    let text = "[gateways] matches no gateway";
    let fix =
        "check [gateways], and that the API key of the source may list gateways; or leave [gateways] out";
    Finding::new(Kind::NotFound, text).fix(fix)
}

/// The gateways that the target does not have connected after the wait that the user wants; none at once without one. It
/// changes nothing and needs no lock. Ctrl-C ends it.
pub async fn missing(job: &GatewayJob, plan: &GatewaysPlan, events: &Sink, stop: &Stop) -> BTreeSet<String> {
    let Some(limit) = job.wait else { return BTreeSet::new() };
    let until = Instant::now() + limit;
    let mut missing: BTreeSet<String> =
        plan.gateways.iter().map(|gateway| gateway.target_id.clone()).collect();
    let mut told = BTreeSet::new();
    loop {
        let by = until.max(Instant::now() + LOOK);
        let asked = look(&missing, job.in_flight, by, events, |id| async move {
            let within = by.saturating_duration_since(Instant::now());
            let stats = job.target.gateway_connection(&id, Some(within)).await?;
            Ok(stats.is_some_and(|stats| is_connected(&stats)))
        });
        missing = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return missing,
            still = asked => still,
        };
        let left = until.saturating_duration_since(Instant::now());
        if missing.is_empty() || left.is_zero() {
            return missing;
        }
        if told != missing {
            let text = format!(
                "waiting up to {} for gateways that the target has not connected: {}",
                whole(left),
                some(&missing)
            );
            events.send(Event::Note(text));
            told.clone_from(&missing);
        }
        tokio::select! {
            biased;
            () = stop.drain.cancelled() => return missing,
            () = sleep(AGAIN.min(left)) => {}
        }
    }
}

/// Those of `ids` that are not seen to be connected. What is not answered by then, or cannot be asked, was not seen.
async fn look<A>(
    ids: &BTreeSet<String>,
    in_flight: usize,
    by: Instant,
    events: &Sink,
    is_there: impl Fn(String) -> A,
) -> BTreeSet<String>
where
    A: Future<Output = Result<bool, wire::Error>>,
{
    let mut still = ids.clone();
    let answers = stream::iter(ids.iter().cloned())
        .map(|id| {
            let answer = is_there(id.clone());
            async move { (id, answer.await) }
        })
        .buffer_unordered(in_flight.max(1));
    let mut answers = std::pin::pin!(answers);
    while let Ok(Some((id, answer))) = timeout_at(by, answers.next()).await {
        match answer {
            Ok(true) => _ = still.remove(&id),
            Ok(false) => {}
            Err(error) => events.send(Event::Note(format!("gateway {id}: {error}"))),
        }
    }
    still
}

/// Some of the names, and how many more there are.
pub fn some(names: &BTreeSet<String>) -> String {
    let shown = names.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES);
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// `45 s`, `9 min`.
fn whole(left: Duration) -> String {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds.div_ceil(60)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_takes_no_longer_than_the_wait() {
        let (sender, _receiver) = tokio::sync::mpsc::unbounded_channel();
        let ids: BTreeSet<_> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let begun = Instant::now();
        let by = begun + Duration::from_secs(60);
        // Two answer, each after a time that all of them together would not have in a row; two never do.
        let events = Sink::new(sender);
        let asked = look(&ids, 4, by, &events, |id| async move {
            sleep(Duration::from_secs(if id.as_str() < "c" { 50 } else { 3600 })).await;
            Ok(id != "b")
        });
        assert_eq!(asked.await, ["b", "c", "d"].map(str::to_owned).into());
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }
}
