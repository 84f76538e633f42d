//! Looking at devices without a session: many with one call.
//!
//! A list has all of them but counters, and costs one call for a thousand. So devices that want to be looked at wait for each
//! other: as long as calls queue that only one device needs, nobody loses time by it. A reading counts only for those that
//! asked before it began.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{Found, PAGE, TtnV2Source, found};
use crate::{map::ttn_v2::V2Device, model::ids::DeviceId, wire::Error};

/// So many devices do not wait for more.
const ENOUGH: usize = 100;
/// Nor does anybody for longer than this: devices behind must not starve the first.
const LONGEST: Duration = Duration::from_secs(10);
/// Those that come shortly after each other wait for each other, within the 200 ms from one call to the next.
const QUIET: Duration = Duration::from_millis(100);
/// So long a list may stand in for the first look at a device: it is looked at once more before it is cleared.
const LISTED: Duration = Duration::from_mins(1);
/// How often the queue is looked at; short beside the 200 ms from one call to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Who waits, and where devices stand in the list.
#[derive(Debug, Default)]
pub(super) struct Looks {
    waiting: Mutex<Vec<Waiting>>,
    /// True while a task gathers.
    gathers: AtomicBool,
    /// Position of each device when the list was read: the pages start there.
    order: Mutex<HashMap<String, u64>>,
    /// Devices without a session as they were listed last, until somebody took them.
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    devices: HashMap<String, V2Device>,
    at: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    device: DeviceId,
    since: Instant,
    /// Gets `None` when no page had the device.
    answer: oneshot::Sender<Result<Option<V2Device>, Error>>,
}

impl Looks {
    pub fn learn(&self, devices: &[V2Device]) {
        *lock(&self.order) = devices.iter().map(V2Device::dev_id).zip(0..).collect();
        let without_session = devices.iter().filter(|d| !d.has_session());
        let devices = without_session.map(|d| (d.dev_id(), d.clone())).collect();
        *lock(&self.listed) = Listed { devices, at: Some(Instant::now()) };
    }

    /// What the list said of a device without a session; once, and not for long.
    pub fn take_listed(&self, device: &DeviceId) -> Option<V2Device> {
        let mut listed = lock(&self.listed);
        if listed.at.is_none_or(|at| at.elapsed() > LISTED) {
            *listed = Listed::default();
        }
        listed.devices.remove(device.as_str())
    }
}

impl TtnV2Source {
    /// The device as it is now: of a page when it has no session, else by itself, with its counters.
    pub(super) async fn look_by_page(&self, device: &DeviceId) -> Result<Found, Error> {
        let listed = lock(&self.0.looks.order).contains_key(device.as_str());
        if listed {
            let (answer, looked) = oneshot::channel();
            let waiting = Waiting { device: device.clone(), since: Instant::now(), answer };
            lock(&self.0.looks.waiting).push(waiting);
            self.gather();
            // A task that died has answered nobody: then the device is read by itself.
            if let Ok(Some(v2)) = looked.await.unwrap_or(Ok(None))
                && !v2.has_session()
            {
                return Ok(found(v2));
            }
        }
        self.get_in_turn(device).await
    }

    /// Starts a task that reads for all who wait, unless one is at it.
    fn gather(&self) {
        if self.0.looks.gathers.swap(true, Ordering::SeqCst) {
            return;
        }
        let source = self.clone();
        tokio::spawn(async move {
            loop {
                while !source.ready() {
                    sleep(PAUSE).await;
                }
                let mut waiting = std::mem::take(&mut *lock(&source.0.looks.waiting));
                waiting.retain(|who| !who.answer.is_closed());
                if waiting.is_empty() {
                    source.0.looks.gathers.store(false, Ordering::SeqCst);
                    // Somebody may have come since.
                    let more = !lock(&source.0.looks.waiting).is_empty();
                    if !more || source.0.looks.gathers.swap(true, Ordering::SeqCst) {
                        return;
                    }
                    continue;
                }
                source.read_for(waiting).await;
            }
        });
    }

    /// True when nobody else would lose time by a reading, or those who wait have waited long enough.
    fn ready(&self) -> bool {
        let waiting = lock(&self.0.looks.waiting);
        let long = waiting.first().is_none_or(|first| first.since.elapsed() >= LONGEST);
        let gone = waiting.iter().all(|who| who.answer.is_closed());
        let quiet = waiting.last().is_none_or(|last| last.since.elapsed() >= QUIET);
        // Who has the turn wants to be looked at next: after its clear it is read back.
        let idle = quiet && self.0.queued.load(Ordering::SeqCst) == 0 && self.0.turn.try_lock().is_ok();
        long || gone || waiting.len() >= ENOUGH || idle
    }

    async fn read_for(&self, mut waiting: Vec<Waiting>) {
        let order = lock(&self.0.looks.order).clone();
        let place = |w: &Waiting| order.get(w.device.as_str()).copied().unwrap_or_default();
        waiting.sort_by_key(place);
        let mut places: Vec<u64> = waiting.iter().map(place).collect();
        places.dedup();
        for span in spans(&places) {
            let end = span.end;
            // A run that was broken off needs no answer.
            let read = tokio::select! {
                read = self.page(span.start, end - span.start) => read,
                () = all_gone(&mut waiting) => return,
            };
            let (here, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|w| place(w) < end);
            waiting = rest;
            for who in here {
                let answer = match &read {
                    Ok((devices, _)) => {
                        Ok(devices.iter().find(|d| d.dev_id() == who.device.as_str()).cloned())
                    }
                    Err(error) => Err(error.clone()),
                };
                // Who was dropped meanwhile needs no answer.
                let _ = who.answer.send(answer);
            }
        }
    }
}

/// Waits until nobody waits for an answer any more.
async fn all_gone(waiting: &mut [Waiting]) {
    for who in waiting {
        who.answer.closed().await;
    }
}

/// The pages that hold all of these places, which are sorted: as few as can be, none larger than a page may be.
fn spans(places: &[u64]) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for place in places {
        match spans.last_mut() {
            Some(span) if place - span.start < PAGE => span.end = place + 1,
            _ => spans.push(*place..place + 1),
        }
    }
    spans
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_page() {
        assert_eq!(spans(&[]), Vec::<Range<u64>>::new());
        assert_eq!(spans(&[3, 4, 900, 5000]), [3..901, 5000..5001]);
        assert_eq!(spans(&[0, 999, 1000, 5000]), [0..1000, 1000..1001, 5000..5001]);
    }
}
