//! S5 and all that it touches: the built binary is killed at every point, and the same command ends in the same state.
//!
//! `STACKFERRY_SWEEP` says how much: `quick` (a plain `cargo test`), `ci` (a release build), or `exhaustive` (every call and
//! every write of the journal in every case, 200 seeds): `STACKFERRY_SWEEP=exhaustive cargo test --release --test crash sweep`.
//! `STACKFERRY_SWEEP_ONLY` names one case, or one point as a violation names it.
//!
//! A point is a call of the client to a server, or a system call by which it changes a file of its journal. At a call
//! that may change something it is killed three times: before the call is applied, once it is applied, and once it is
//! answered. At a call that only reads, these are one and the same state of both servers and of the journal, so it is
//! killed once; and unless the sweep is exhaustive, only where something was changed since the call before, as it is else
//! the state of that one (`kill.rs`). The journal changes only with its transactions: it is killed after each that another
//! follows before the next call, and, unless the sweep is exhaustive, at some of the writes that make a transaction. Most points are met under traffic, judged by the auditor, by every device's proof of
//! life, and by what is stored in the end but for what the air changes; some calls that change something also without
//! traffic, where everything that is stored must be as without a kill.

mod cases;
mod kill;
mod lane;
mod outcome;
mod planted;
mod point;
mod scene;
mod stand;
mod tally;
mod trace;

use std::{
    fmt,
    time::{Duration, Instant},
};

use cases::Case;
use lane::{Lane, Reference, Sort};
use scene::Air;
use tally::Tally;

/// How much is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Quick,
    Ci,
    Exhaustive,
}

impl Scope {
    fn chosen() -> Self {
        match std::env::var("STACKFERRY_SWEEP").as_deref() {
            Ok("quick") => Self::Quick,
            Ok("ci") => Self::Ci,
            Ok("exhaustive") => Self::Exhaustive,
            Ok(other) => panic!("STACKFERRY_SWEEP={other}: quick, ci or exhaustive"),
            Err(_) if cfg!(debug_assertions) => Self::Quick,
            Err(_) => Self::Ci,
        }
    }

    /// Without it, a call counts only when something was changed since the call before it.
    fn counts_every_call(self) -> bool {
        self == Self::Exhaustive
    }

    fn seeds(self) -> u64 {
        match self {
            Self::Quick => 1,
            Self::Ci => 8,
            Self::Exhaustive => 200,
        }
    }

    /// The cases, and with what steps each is swept: calls, calls without traffic, transactions, writes of the journal.
    fn cases(self) -> Vec<(Case, [usize; 4])> {
        let (some, steps): (usize, fn(usize) -> [usize; 4]) = match self {
            Self::Quick => (4, |i| [9, 9, 9, if i == 0 { 60 } else { 300 }]),
            // Primes, so that the steps do not fall on the same write of every transaction.
            Self::Ci => (usize::MAX, |i| [1, 17, 1, if i == 0 { 29 } else { 397 }]),
            Self::Exhaustive => (usize::MAX, |_| [1, 1, 1, 1]),
        };
        Case::all().into_iter().take(some).enumerate().map(|(i, case)| (case, steps(i))).collect()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quick => "quick",
            Self::Ci => "ci",
            Self::Exhaustive => "exhaustive",
        })
    }
}

/// Runs at the same time: they wait for one another's servers and disks.
const THREADS: usize = 4;

#[test]
fn a_kill_at_any_point_ends_in_the_same_state() {
    no_core_dumps();
    crate::process::in_memory();
    let scope = Scope::chosen();
    let (begun, before) = (Instant::now(), processor_time());
    let cost = || processor_time().saturating_sub(before);
    let tally = Tally::default();
    let only = std::env::var("STACKFERRY_SWEEP_ONLY").ok();
    if let Some(point) = only.as_ref().filter(|only| only.contains(':')) {
        lane::only(point, &tally);
        return tally.close(&format!("crash sweep, {point}"), begun.elapsed(), cost());
    }
    for (number, (case, steps)) in scope.cases().into_iter().enumerate() {
        if only.as_ref().is_none_or(|name| *name == case.name()) {
            sweep(&case, steps, number as u64, &tally);
            println!("{:>5.0?} so far: {tally}", begun.elapsed());
        }
    }
    if only.is_none() {
        lane::samples(&Case::all(), scope.seeds(), THREADS, &tally);
    }
    tally.close(&format!("crash sweep ({scope})"), begun.elapsed(), cost());
}

/// One case with these steps: calls, calls without traffic, transactions, writes of the journal.
fn sweep(case: &Case, [calls, quiet, commits, journal]: [usize; 4], number: u64, tally: &Tally) {
    let (begun, cost, kills) = (Instant::now(), processor_time(), tally.kills());
    let reference = match Reference::new(case, 2 * number + 1) {
        Ok(reference) => reference,
        Err(why) => return tally.violation(case, point::Point::Nowhere, Air::Traffic(2 * number + 1), &why),
    };
    let sorts = [Sort::Calls, Sort::QuietWrites, Sort::Commits, Sort::Journal];
    for (sort, step) in sorts.into_iter().zip([calls, quiet, commits, journal]) {
        Lane::new(case, &reference, sort, step, number).sweep(THREADS, tally);
    }
    println!(
        "{}: {} calls, {} transactions between them, {} journal writes, {} kills in {:.0?} ({:.0?} of processor time)",
        case.name(),
        reference.calls,
        reference.unseen.len(),
        reference.writes,
        tally.kills() - kills,
        begun.elapsed(),
        processor_time().saturating_sub(cost)
    );
}

/// Processor time of this process and of all clients so far: what the sweep costs, however busy the machine is.
fn processor_time() -> Duration {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike as _},
    };
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    let of = |who| getrusage(who).map_or(0, |usage| micros(usage.user_time()) + micros(usage.system_time()));
    Duration::from_micros(of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN))
}

/// An aborted process must not leave its memory, with keys in it, in a file.
fn no_core_dumps() {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("less is always allowed");
}
