//! The servers kill the client.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
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
use stackferry::rehearsal::{CallInfo, Fault};

use super::point::{Moment, Point};
use crate::world::World;

/// The client that is to be killed, and what was seen of it.
#[derive(Debug)]
pub struct Killer {
    point: Point,
    signal: Signal,
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
            client: AtomicI32::new(0),
            calls: Mutex::default(),
            chosen: Mutex::new(None),
            fired: AtomicBool::new(false),
        });
        for (side, tts) in [&world.source.tts, &world.target.tts].into_iter().enumerate() {
            let on_call = Arc::clone(&killer);
            tts.on_call(move |call| on_call.arrived(side, call));
            let on_applied = Arc::clone(&killer);
            tts.on_applied(move |call| on_applied.passed(Moment::Applied, side, call));
            let on_replied = Arc::clone(&killer);
            tts.on_replied(move |call| on_replied.passed(Moment::Replied, side, call));
        }
        killer
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
        self.kill();
        Some(Fault::CutBefore)
    }

    fn passed(&self, moment: Moment, side: usize, call: &CallInfo) {
        let chosen = lock(&self.chosen);
        let here = chosen.as_ref().is_some_and(|(at, chosen)| *at == side && chosen.n == call.n);
        drop(chosen);
        if here && matches!(self.point, Point::Call(at, _) if at == moment) {
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
        self.fired.store(true, SeqCst);
        let client = Pid::from_raw(client);
        kill(client, self.signal).expect("the client is ours");
        // An error says that it was waited for already: dead as well.
        waitid(Id::Pid(client), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
