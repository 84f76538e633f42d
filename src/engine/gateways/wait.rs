//! The wait until the target has the gateways connected, before devices are moved that go on with their session.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{GatewayJob, is_connected};
use crate::{
    engine::{
        event::{Event, Sink},
        run::Stop,
    },
    plan::{belongings::Verdict, gateways::GatewaysPlan},
};

/// How long after an answer the target is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// Names in one line.
const NAMES: usize = 8;

/// The gateways that the target does not have connected after the wait that the user wants; none at once without one. It
/// changes nothing and needs no lock. Ctrl-C ends it.
pub async fn missing(job: &GatewayJob, plan: &GatewaysPlan, events: &Sink, stop: &Stop) -> BTreeSet<String> {
    let Some(limit) = job.wait else { return BTreeSet::new() };
    let until = Instant::now() + limit;
    let moving = plan.gateways.iter().filter(|gateway| gateway.verdict != Verdict::Stop);
    let mut missing: BTreeSet<String> = moving.map(|gateway| gateway.target_id.clone()).collect();
    let mut told = BTreeSet::new();
    loop {
        let asked = async {
            let mut still = BTreeSet::new();
            for id in &missing {
                // What cannot be asked was not seen: the calls have retries and deadlines of their own.
                match job.target.gateway_connection(id).await {
                    Ok(Some(stats)) if is_connected(&stats) => {}
                    Ok(_) => _ = still.insert(id.clone()),
                    Err(error) => {
                        events.send(Event::Note(format!("gateway {id}: {error}")));
                        still.insert(id.clone());
                    }
                }
            }
            still
        };
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
            () = tokio::time::sleep(AGAIN.min(left)) => {}
        }
    }
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
