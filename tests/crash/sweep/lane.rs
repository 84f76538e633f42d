//! All points of one sort of one case, one after the other and several at once.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use super::{
    Scope,
    cases::Case,
    outcome::{self, Stored},
    point::{Moment, Point},
    scene::{Air, Played, play},
    stand::Stand,
    tally::Tally,
};

/// Runs of a case without a kill.
#[derive(Debug)]
pub struct Reference {
    quiet: Stored,
    settled: Stored,
    /// Calls without a kill.
    pub calls: usize,
    /// Which of them may change something, from 1.
    changing: Vec<usize>,
    /// Transactions of the journal that another one followed before the next call, from 1: a kill at a call is none after
    /// these.
    pub unseen: Vec<usize>,
    /// Changes of files of the journal without a kill.
    pub writes: usize,
}

impl Reference {
    /// # Errors
    /// When a run without a kill is a violation, or two of them end differently.
    pub fn new(case: &Case, seed: u64) -> Result<Self, String> {
        let play = |air, counted| move || play(case, Point::Nowhere, air, counted);
        let (quiet, again, one, other) = thread::scope(|scope| {
            let quiet = scope.spawn(play(Air::Quiet, true));
            let again = scope.spawn(play(Air::Quiet, false));
            let one = scope.spawn(play(Air::Traffic(seed), false));
            let other = scope.spawn(play(Air::Traffic(seed + 1), false));
            let end = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("it does not panic");
            (end(quiet), end(again), end(one), end(other))
        });
        let (quiet, again, one, other) = (quiet?, again?, one?, other?);
        same(&quiet.stored, &again.stored, "two runs without a kill")?;
        same(&one.stored, &other.stored, "two runs without a kill under traffic")?;
        if case.goes_back() {
            let at_the_source = |stored| outcome::at_the_source(stored, case.target(), case.is_lost());
            same(&at_the_source(&one.before), &at_the_source(&one.stored), "a rollback")?;
        }
        for kind in
            ["pwrite64 test.journal-wal", "fsync test.journal-wal", "pwrite64 test.journal.lock", "rename"]
        {
            // A rollback makes no journal.
            let seen = quiet.writes.iter().any(|write| write.what == kind);
            if !(seen || case.goes_back() && kind == "rename") {
                return Err(format!("the tracer saw no `{kind}`: the sweep of the journal is blind"));
            }
        }
        let commits: Vec<_> = quiet.writes.iter().filter(|w| w.commits()).collect();
        let unseen = commits.windows(2).enumerate().filter(|(_, w)| w[0].calls == w[1].calls);
        let unseen = unseen.map(|(i, _)| i + 1).collect();
        let changing = quiet.calls.iter().enumerate().filter(|(_, is_write)| **is_write).map(|(i, _)| i + 1);
        Ok(Self {
            changing: changing.collect(),
            unseen,
            calls: quiet.calls.len(),
            writes: quiet.writes.len(),
            quiet: quiet.stored,
            settled: one.stored,
        })
    }

    fn of(&self, air: Air) -> &Stored {
        if air == Air::Quiet { &self.quiet } else { &self.settled }
    }
}

fn same(expected: &Stored, is: &Stored, what: &str) -> Result<(), String> {
    let differences = outcome::differences(expected, is);
    if differences.is_empty() { Ok(()) } else { Err(format!("{what}: {}", differences.join("; "))) }
}

/// Which points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Every call, under traffic.
    Calls,
    /// Every call that may change something, without traffic.
    QuietWrites,
    /// Every transaction of the journal after which no kill at a call comes, without traffic.
    Commits,
    /// Every change of a file of the journal, under traffic.
    Journal,
}

/// One sort of points of one case.
#[derive(Debug)]
pub struct Lane<'a> {
    case: &'a Case,
    reference: &'a Reference,
    sort: Sort,
    step: usize,
    seed: u64,
    next: AtomicUsize,
    untouched: AtomicUsize,
}

/// A lane is over after so many runs that were over before their point came: under traffic not all runs are equally long.
const OVER: usize = 2;

impl<'a> Lane<'a> {
    pub fn new(case: &'a Case, reference: &'a Reference, sort: Sort, step: usize, seed: u64) -> Self {
        // Where the steps begin is another place in each case.
        let next = AtomicUsize::new(1 + usize::try_from(seed).unwrap_or(0) % step);
        Self { case, reference, sort, step, seed: seed << 32, next, untouched: AtomicUsize::new(0) }
    }

    /// Goes on until runs stay untouched.
    pub fn sweep(&self, threads: usize, tally: &Tally) {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut player = Player::default();
                    while self.untouched.load(SeqCst) < OVER && !tally.is_enough() {
                        self.point(self.next.fetch_add(self.step, SeqCst), &mut player, tally);
                    }
                });
            }
        });
    }

    fn point(&self, n: usize, player: &mut Player, tally: &Tally) {
        let mut check = |point, air| player.check(self.case, self.reference, point, air, tally);
        let traffic = traffic(self.case, self.seed + n as u64, self.seed);
        let call = |moment, n| Point::Call(moment, n);
        let killed = match self.sort {
            Sort::Commits => match self.reference.unseen.get(n - 1) {
                Some(&n) => {
                    check(Point::Committed(n), Air::Quiet);
                    true
                }
                None => false,
            },
            Sort::Journal => check(Point::Write(n), traffic).is_none_or(|played| played.killed),
            Sort::Calls => {
                let before = check(call(Moment::Before, n), traffic);
                if before.as_ref().is_some_and(|played| played.is_write) {
                    check(call(Moment::Applied, n), traffic);
                    check(call(Moment::Replied, n), traffic);
                }
                before.is_none_or(|played| played.killed)
            }
            Sort::QuietWrites => match self.reference.changing.get(n - 1) {
                Some(&n) => {
                    let moments = [Moment::Before, Moment::Applied, Moment::Replied];
                    for moment in moments {
                        check(call(moment, n), Air::Quiet);
                    }
                    true
                }
                None => false,
            },
        };
        self.untouched.fetch_add(usize::from(!killed), SeqCst);
    }
}

/// Plays points one after the other.
#[derive(Default)]
struct Player {
    /// Where the case stands that it plays, unless it is swept from the beginning.
    stand: Option<Stand>,
}

impl Player {
    /// Plays one point, and holds its end against the reference.
    fn check(
        &mut self,
        case: &Case,
        reference: &Reference,
        point: Point,
        air: Air,
        tally: &Tally,
    ) -> Option<Played> {
        let played = self.play(case, point, air).and_then(|played| {
            same(reference.of(air), &played.stored, "the end is another than without a kill")?;
            Ok(played)
        });
        match played {
            Ok(played) => {
                tally.good(point, air, &played);
                Some(played)
            }
            Err(why) => {
                // What comes after a violation begins anew.
                self.stand = None;
                tally.violation(case, point, air, &why);
                None
            }
        }
    }

    fn play(&mut self, case: &Case, point: Point, air: Air) -> Result<Played, String> {
        let first = match air {
            Air::After(_, first) => Air::Traffic(first),
            Air::Quiet if stands(case) => Air::Quiet,
            _ => return play(case, point, air, false),
        };
        let stand = match self.stand.take() {
            Some(stand) => stand,
            None => Stand::new(case, first)?,
        };
        self.stand.insert(stand).play(case, point, air)
    }
}

/// True when a case is not played from its beginning for every point.
fn stands(case: &Case) -> bool {
    Scope::chosen() != Scope::Exhaustive && case.stages().iter().any(|stage| !stage.swept)
}

/// The air of a point: by `seed`, and by `first` in what comes before the sweep.
fn traffic(case: &Case, seed: u64, first: u64) -> Air {
    if stands(case) { Air::After(seed, first) } else { Air::Traffic(seed) }
}

/// Points of one seed: calls, and changes of the journal.
const SAMPLES: (usize, usize) = (5, 3);

/// Ten devices of all kinds, at random points.
pub fn samples(cases: &[Case], seeds: u64, threads: usize, tally: &Tally) {
    let next = AtomicUsize::new(1);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed as u64 > seeds || tally.is_enough() {
                        break;
                    }
                    sample(&cases[seed % cases.len()].clone().with_ten_devices(), seed as u64, tally);
                }
            });
        }
    });
}

fn sample(case: &Case, seed: u64, tally: &Tally) {
    let reference = match Reference::new(case, seed) {
        Ok(reference) => reference,
        Err(why) => return tally.violation(case, Point::Nowhere, Air::Traffic(seed), &why),
    };
    let (mut random, mut player) = (Random(seed), Player::default());
    for _ in 0..SAMPLES.0 {
        let moment = [Moment::Before, Moment::Applied, Moment::Replied][random.below(3)];
        let point = Point::Call(moment, 1 + random.below(reference.calls));
        player.check(case, &reference, point, traffic(case, seed, seed), tally);
    }
    for _ in 0..SAMPLES.1 {
        let point = Point::Write(1 + random.below(reference.writes));
        player.check(case, &reference, point, traffic(case, seed, seed), tally);
    }
}

/// SplitMix64: a seed names all points.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap_or(0)
    }
}

/// One point again, as a violation names it: `case:point:air`.
pub fn only(text: &str, tally: &Tally) {
    let parts: Vec<_> = text.split(':').collect();
    let [case, point, air] = parts[..] else { panic!("STACKFERRY_SWEEP_ONLY={text}: case:point:air") };
    let case = Case::named(case).unwrap_or_else(|| panic!("no case is named {case}"));
    let point: Point = point.parse().unwrap_or_else(|why| panic!("{why}"));
    let air: Air = air.parse().unwrap_or_else(|why| panic!("{why}"));
    let seed = if let Air::Traffic(seed) | Air::After(seed, _) = air { seed } else { 1 };
    match Reference::new(&case, seed) {
        Ok(reference) => drop(Player::default().check(&case, &reference, point, air, tally)),
        Err(why) => tally.violation(&case, Point::Nowhere, air, &why),
    }
}
