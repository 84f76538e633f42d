//! The servers kill the client.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use stackferry::rehearsal::{CallInfo, Fault, Tts};

use super::point::{Moment, Point};
use crate::world::World;

/// The client that is to be killed, and what was seen of it.
#[derive(Debug)]
pub struct Killer {
    point: Point,
    signal: Signal,
    /// How many calls of a stage that is not swept are let through before it is killed for good.
    cut: AtomicUsize,
    /// True in a stage that is swept.
    swept: AtomicBool,
    /// The client's process; 0 while there is none.
    client: AtomicI32,
    /// Of each call so far: may it change something?
    calls: Mutex<Vec<bool>>,
    /// The call at which it is killed: side, number there.
    chosen: Mutex<Option<(usize, CallInfo)>>,
    fired: AtomicBool,
}

impl Killer {
    /// Hooks into both servers.
    pub fn new(world: &World, point: Point) -> Arc<Self> {
        let by_turns = |n: usize| if n.is_multiple_of(3) { Signal::SIGABRT } else { Signal::SIGKILL };
        let killer = Arc::new(Self {
            point,
            signal: if let Point::Call(_, n) = point { by_turns(n) } else { Signal::SIGKILL },
            cut: AtomicUsize::new(usize::MAX),
            swept: AtomicBool::new(true),
            client: AtomicI32::new(0),
            calls: Mutex::default(),
            chosen: Mutex::new(None),
            fired: AtomicBool::new(false),
        });
        for (side, tts) in deployments(world).into_iter().enumerate() {
            let on_call = Arc::clone(&killer);
            tts.on_call(move |call| on_call.arrived(side, call));
            let on_applied = Arc::clone(&killer);
            tts.on_applied(move |call| on_applied.passed(Moment::Applied, side, call));
            let on_replied = Arc::clone(&killer);
            tts.on_replied(move |call| on_replied.passed(Moment::Replied, side, call));
        }
        killer
    }

    /// What follows is swept, or else killed for good at this call.
    pub fn begin(&self, swept: bool, cut: Option<usize>) {
        self.swept.store(swept, SeqCst);
        self.cut.store(cut.unwrap_or(usize::MAX), SeqCst);
    }

    /// From now on this process is the client; 0 for none.
    pub fn watch(&self, client: i32) {
        self.client.store(client, SeqCst);
    }

    /// Of each call so far, whether it may change something.
    pub fn calls(&self) -> Vec<bool> {
        lock(&self.calls).clone()
    }

    /// True once the client was killed from here.
    pub fn fired(&self) -> bool {
        self.fired.load(SeqCst)
    }

    /// The call of the point, once it has come.
    pub fn chosen(&self) -> Option<CallInfo> {
        lock(&self.chosen).as_ref().map(|(_, call)| call.clone())
    }

    fn arrived(&self, side: usize, call: &CallInfo) -> Option<Fault> {
        if !self.swept.load(SeqCst) {
            if self.cut.fetch_sub(1, SeqCst) != 1 {
                return None;
            }
            self.kill();
            return Some(Fault::CutBefore);
        }
        let mut calls = lock(&self.calls);
        calls.push(call.is_write);
        let n = calls.len();
        drop(calls);
        let Point::Call(moment, at) = self.point else { return None };
        if n != at {
            return None;
        }
        *lock(&self.chosen) = Some((side, call.clone()));
        if moment != Moment::Before {
            return None;
        }
        self.fired.store(true, SeqCst);
        self.kill();
        Some(Fault::CutBefore)
    }

    fn passed(&self, moment: Moment, side: usize, call: &CallInfo) {
        let chosen = lock(&self.chosen);
        let here = chosen.as_ref().is_some_and(|(at, chosen)| *at == side && chosen.n == call.n);
        drop(chosen);
        if here && matches!(self.point, Point::Call(at, _) if at == moment) {
            self.fired.store(true, SeqCst);
            self.kill();
        }
    }

    /// Returns when the client is dead: whatever happens afterwards, it did not see.
    fn kill(&self) {
        let mut client = self.client.load(SeqCst);
        while client == 0 {
            // Its first call is faster than the thread that started it.
            thread::sleep(Duration::from_micros(100));
            client = self.client.load(SeqCst);
        }
        let client = Pid::from_raw(client);
        kill(client, self.signal).expect("the client is ours");
        // An error says that it was waited for already: dead as well.
        waitid(Id::Pid(client), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).ok();
    }
}

/// Source and target: one, if they are the same.
pub fn deployments(world: &World) -> Vec<&Arc<Tts>> {
    let (source, target) = (&world.source.tts, &world.target.tts);
    if Arc::ptr_eq(source, target) { vec![source] } else { vec![source, target] }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
