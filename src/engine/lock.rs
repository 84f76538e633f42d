//! The lock of a pair of applications: a marker in each, taken before the first write, renewed while the run works, and
//! removed at its end (S8, `docs/adr/0004-lock-marker.md`).
//!
//! Nothing here compares the clocks of two machines. A marker is stale when it stood unchanged for longer than its holder
//! would have left it, by the watch of who looks; a holder that could not renew its marker for that long writes no more.

use std::{
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::event::{Event, Sink};
use crate::{
    journal::{self, JournalHandle, Who},
    model::ids::AppId,
    tts::{
        Stack,
        marker::{self, Marker, Seen},
    },
    wire::{self, Kind, Side},
};

/// A holder whose last renewal is older than this many half periods writes no more.
const LEASE_HALVES: u32 = 5;
/// A marker that stood still for so many periods is stale: more than the lease.
const WATCH: u32 = 3;
/// The longest time between writing one's name over a stale marker and reading it back.
const SETTLE: Duration = Duration::from_secs(10);
/// How often a create is tried whose answer was lost, or whose winner was gone when it was looked at.
const TRIES: u32 = 5;

/// Why an application cannot be worked on, or not any longer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LockError {
    /// Another run has it.
    #[error(
        "application {app} of the {side} is in the hands of another run: {holder}, since {since}, with journal {journal}"
    )]
    Taken {
        /// Which application.
        app: AppId,
        /// Of which side.
        side: Side,
        /// Who, in words.
        holder: String,
        /// Since when.
        since: String,
        /// ID of its journal.
        journal: String,
    },
    /// The marker was renewed while it was watched.
    #[error(
        "application {app} of the {side} cannot be taken over: {holder} is at work, its marker was just renewed"
    )]
    Moving {
        /// Which application.
        app: AppId,
        /// Of which side.
        side: Side,
        /// Who, in words.
        holder: String,
    },
    /// Writing over a stale marker took so long that another may have done the same.
    #[error("application {app} of the {side} was not taken over: the server was too slow to be sure of it")]
    Slow {
        /// Which application.
        app: AppId,
        /// Of which side.
        side: Side,
    },
    /// A device of somebody's own has the marker's ID.
    #[error("application {app} of the {side} has a device {id} that is no marker of stackferry", id = marker::ID)]
    NoMarker {
        /// Which application.
        app: AppId,
        /// Of which side.
        side: Side,
    },
    /// The marker is gone or another's: nothing more is done.
    #[error("application {app} of the {side} is not in the hands of this run any more: {by}")]
    Lost {
        /// Which application.
        app: AppId,
        /// Of which side.
        side: Side,
        /// Who has it now.
        by: String,
    },
    /// A call failed.
    #[error(transparent)]
    Call(#[from] wire::Error),
}

impl LockError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Taken { .. } => "let that run end; should it be dead, run with --take-over",
            Self::Moving { .. } => "let that run end, or stop it where it runs",
            Self::Slow { .. } => "run again with --take-over",
            Self::NoMarker { .. } => "rename that device: the ID is how runs keep out of each other's way",
            Self::Lost { .. } => "see who works on this application, then run again",
            Self::Call(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }

    /// True when another run is in the way, false when a call failed.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Call(_))
    }
}

/// Who wants the lock, and how.
#[derive(Debug, Clone)]
pub struct Terms {
    me: Marker,
    /// True: a stale marker of another journal is taken over.
    pub take_over: bool,
}

impl Terms {
    /// Those of a run of this process with `journal`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn of(
        journal: &JournalHandle,
        renewal: Duration,
        take_over: bool,
    ) -> Result<Self, journal::Error> {
        let who = Who::current();
        let id = journal.read(|j| Ok(j.run_id())).await?;
        let path = std::fs::canonicalize(journal.path()).unwrap_or_else(|_| journal.path().to_owned());
        let place = Sha256::digest(format!("{}\n{}", who.host, path.display()));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let run = Sha256::digest(format!("{}\n{}\n{}\n{now}", who.host, path.display(), who.pid));
        let me = Marker {
            journal: id,
            run: hex::encode(&run[..16]),
            place: hex::encode(&place[..8]),
            holder: who.to_string(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            renewal,
        };
        Ok(Self { me, take_over })
    }
}

/// One application that is to be locked.
#[derive(Debug, Clone)]
pub struct Place {
    /// For words.
    pub side: Side,
    /// Its deployment.
    pub stack: Stack,
    /// The application.
    pub app: AppId,
    /// False for an application that the run has yet to create.
    pub exists: bool,
}

/// The lock of the applications that one job works on. Clones are the same lock.
#[derive(Debug, Clone)]
pub struct Lock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    terms: Terms,
    places: Vec<Place>,
    events: Sink,
    /// Cancelled when the lock cannot be had or is lost: then nothing more is done with it.
    abort: CancellationToken,
    held: tokio::sync::Mutex<Held>,
    /// When all markers were last seen to be ours.
    seen: Mutex<Option<(Instant, SystemTime)>>,
    trouble: Mutex<Option<LockError>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Held {
    /// By place: a call to make our marker was made.
    touched: Vec<bool>,
    /// By place: the marker is ours.
    taken: Vec<bool>,
    /// When the first of them was taken.
    since: Option<(Instant, SystemTime)>,
    beats: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lock {
    /// Nothing is taken yet. `places` are taken in this order, which must be the same for all runs: source, then target.
    pub fn new(terms: Terms, places: Vec<Place>, events: Sink, abort: CancellationToken) -> Self {
        let none = vec![false; places.len()];
        Self(Arc::new(Inner {
            terms,
            events,
            abort,
            held: tokio::sync::Mutex::new(Held { touched: none.clone(), taken: none, since: None, beats: 0 }),
            places,
            seen: Mutex::default(),
            trouble: Mutex::default(),
            keeper: Mutex::default(),
        }))
    }

    /// Takes the marker of one side, before the other side's application is there.
    ///
    /// # Errors
    /// When another run has it, or a call fails.
    pub async fn take(&self, side: Side) -> Result<(), LockError> {
        let mut held = self.0.held.lock().await;
        let which = self.0.places.iter().position(|p| p.side == side);
        match which {
            Some(index) => self.0.take(&mut held, index).await,
            None => Ok(()),
        }
    }

    /// Takes the markers that are not taken yet.
    ///
    /// # Errors
    /// When another run has one, or a call fails.
    pub async fn take_all(&self) -> Result<(), LockError> {
        let mut held = self.0.held.lock().await;
        self.take_rest(&mut held).await
    }

    async fn take_rest(&self, held: &mut Held) -> Result<(), LockError> {
        for index in 0..self.0.places.len() {
            self.0.take(held, index).await?;
        }
        match held.since {
            Some(since) if since.0.elapsed() < self.0.terms.me.renewal / 2 => {
                *locked(&self.0.seen) = Some(since);
            }
            // The first of them has stood still for a while.
            _ => self.0.renew(held).await?,
        }
        let mut keeper = locked(&self.0.keeper);
        if keeper.is_none() {
            *keeper = Some(tokio::spawn(keep(Arc::downgrade(&self.0))));
        }
        Ok(())
    }

    /// Returns when the markers are surely ours: takes them before the first write, and looks again when they were not
    /// renewed in time. Never returns when they cannot be had: then the work is aborted, and [`Lock::trouble`] says why.
    pub async fn before_write(&self) {
        if self.0.is_fresh() {
            return;
        }
        let mut held = self.0.held.lock().await;
        if self.0.abort.is_cancelled() {
            return future::pending().await;
        }
        if self.0.is_fresh() {
            return;
        }
        let all = held.taken.iter().all(|t| *t);
        let ready = if all { self.0.renew(&mut held).await } else { self.take_rest(&mut held).await };
        if let Err(error) = ready {
            self.0.fail(error);
            future::pending().await
        }
    }

    /// Why the work was aborted.
    pub fn trouble(&self) -> Option<LockError> {
        locked(&self.0.trouble).clone()
    }

    /// Says that the markers were not removed.
    pub(super) fn may_be_left(&self) {
        let text = "the lock markers may be left: the next run with this journal goes on all the same";
        self.0.events.send(Event::Note(text.to_owned()));
    }

    /// Removes our markers, also those that an earlier run with this journal has left. Another's stay.
    pub async fn release(&self) {
        let keeper = locked(&self.0.keeper).take();
        if let Some(keeper) = keeper {
            keeper.abort();
            // Only now is the marker not written any more.
            keeper.await.ok();
        }
        let mut held = self.0.held.lock().await;
        *locked(&self.0.seen) = None;
        for (index, place) in self.0.places.iter().enumerate().rev() {
            if !place.exists && !held.touched[index] {
                continue;
            }
            if let Err(error) = self.0.remove(place).await {
                let text =
                    format!("the marker {} may be left in application {}: {error}", marker::ID, place.app);
                self.0.events.send(Event::Note(text));
            }
            held.taken[index] = false;
        }
    }
}

impl Inner {
    fn is_fresh(&self) -> bool {
        let lease = self.terms.me.renewal * LEASE_HALVES / 2;
        locked(&self.seen).is_some_and(|(instant, clock)| {
            // A machine that slept counts by its wall clock; one whose clock was set back, by the other.
            let slept = clock.elapsed().unwrap_or_default();
            instant.elapsed().max(slept) < lease
        })
    }

    fn fail(&self, error: LockError) {
        let mut trouble = locked(&self.trouble);
        if trouble.is_none() {
            *trouble = Some(error);
        }
        self.abort.cancel();
    }

    fn is_ours(&self, marker: &Marker) -> bool {
        let me = &self.terms.me;
        marker.journal == me.journal && marker.run == me.run
    }

    /// Of an earlier run with this very journal: two of them cannot be alive, as the journal's own lock sees to.
    fn was_ours(&self, marker: &Marker) -> bool {
        let me = &self.terms.me;
        marker.journal == me.journal && marker.place == me.place
    }

    async fn take(&self, held: &mut Held, index: usize) -> Result<(), LockError> {
        if held.taken[index] {
            return Ok(());
        }
        let place = &self.places[index];
        let me = &self.terms.me;
        held.touched[index] = true;
        held.since.get_or_insert_with(|| (Instant::now(), SystemTime::now()));
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            match place.stack.create_marker(&place.app, me).await {
                Ok(()) => {
                    held.taken[index] = true;
                    return Ok(());
                }
                Err(error) => {
                    let unknown = error.outcome() == wire::Outcome::Unknown;
                    if *error.kind() != Kind::AlreadyExists && !unknown {
                        return Err(error.into());
                    }
                    last = Some(error);
                }
            }
            let Some(seen) = place.stack.marker(&place.app).await? else { continue };
            if self.settle_with(place, seen).await? {
                held.taken[index] = true;
                return Ok(());
            }
        }
        // Five times there and gone, or five lost answers.
        Err(last.map_or_else(|| self.lost(place, "its marker comes and goes"), LockError::Call))
    }

    /// What is done about a marker that is there. False when it went meanwhile.
    async fn settle_with(&self, place: &Place, seen: Seen) -> Result<bool, LockError> {
        let Some(there) = seen.marker.clone() else {
            return Err(LockError::NoMarker { app: place.app.clone(), side: place.side });
        };
        if self.is_ours(&there) {
            return Ok(true);
        }
        if self.was_ours(&there) {
            place.stack.replace_marker(&place.app, &self.terms.me).await?;
            return Ok(true);
        }
        // A copy of this journal elsewhere, or this journal moved: nobody can tell but by watching.
        if !self.terms.take_over && there.journal != self.terms.me.journal {
            return Err(taken(place, &there));
        }
        self.take_over(place, seen, &there).await
    }

    /// Watches a marker, and writes our name over it when it stood still. Of several that do so at once the last one to
    /// write has it: all read it back after a time that is longer than any of them took to write.
    async fn take_over(&self, place: &Place, seen: Seen, there: &Marker) -> Result<bool, LockError> {
        let Place { side, stack, app, .. } = place;
        let period = there.renewal.clamp(Duration::from_millis(100), Duration::from_hours(1));
        let words = format!(
            "watching the marker of {} in application {app} for {} s before it is taken over",
            there.holder,
            (period * WATCH).as_secs()
        );
        self.events.send(Event::Note(words));
        let mut begun = Instant::now();
        for look in 0..=WATCH {
            if look > 0 {
                tokio::time::sleep(period).await;
            }
            begun = Instant::now();
            match stack.marker(app).await? {
                None => return Ok(false),
                Some(now) if now == seen => {}
                Some(_) => {
                    let holder = there.holder.clone();
                    return Err(LockError::Moving { app: app.clone(), side: *side, holder });
                }
            }
        }
        stack.replace_marker(app, &self.terms.me).await?;
        let settle = period.min(SETTLE);
        if begun.elapsed() > settle / 2 {
            return Err(LockError::Slow { app: app.clone(), side: *side });
        }
        tokio::time::sleep(settle).await;
        match stack.marker(app).await? {
            Some(Seen { marker: Some(now), .. }) if self.is_ours(&now) => Ok(true),
            Some(Seen { marker: Some(now), .. }) => Err(taken(place, &now)),
            _ => Err(self.lost(place, "its marker was removed")),
        }
    }

    /// Looks at every marker and gives a sign of life.
    async fn renew(&self, held: &mut Held) -> Result<(), LockError> {
        let begun = (Instant::now(), SystemTime::now());
        held.beats += 1;
        for (index, place) in self.places.iter().enumerate().filter(|(index, _)| held.taken[*index]) {
            match place.stack.marker(&place.app).await?.map(|seen| seen.marker) {
                Some(Some(now)) if self.is_ours(&now) => {}
                Some(Some(now)) => {
                    held.taken[index] = false;
                    return Err(self.lost(place, &format!("it was taken over by {}", now.holder)));
                }
                _ => {
                    held.taken[index] = false;
                    return Err(self.lost(place, "its marker was removed"));
                }
            }
            match place.stack.renew_marker(&place.app, &self.terms.me, held.beats).await {
                Err(error) if *error.kind() == Kind::NotFound => {
                    return Err(self.lost(place, "its marker was removed"));
                }
                renewed => renewed?,
            }
        }
        *locked(&self.seen) = Some(begun);
        Ok(())
    }

    async fn remove(&self, place: &Place) -> Result<(), wire::Error> {
        let Some(seen) = place.stack.marker(&place.app).await? else { return Ok(()) };
        match seen.marker {
            Some(marker) if self.is_ours(&marker) || self.was_ours(&marker) => {
                place.stack.remove_marker(&place.app).await
            }
            _ => Ok(()),
        }
    }

    fn lost(&self, place: &Place, by: &str) -> LockError {
        LockError::Lost { app: place.app.clone(), side: place.side, by: by.to_owned() }
    }
}

fn taken(place: &Place, by: &Marker) -> LockError {
    LockError::Taken {
        app: place.app.clone(),
        side: place.side,
        holder: by.holder.clone(),
        since: by.since.clone(),
        journal: by.journal.clone(),
    }
}

/// Renews the markers as long as the lock is there. A call that fails is tried again until the lease has run out.
async fn keep(lock: Weak<Inner>) {
    let Some(period) = lock.upgrade().map(|inner| inner.terms.me.renewal) else { return };
    let mut pause = period;
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = lock.upgrade() else { return };
        let mut held = inner.held.lock().await;
        pause = period;
        match inner.renew(&mut held).await {
            Ok(()) => {}
            Err(error) if error.is_refusal() || !inner.is_fresh() => return inner.fail(error),
            Err(_) => pause = period / 5,
        }
    }
}
