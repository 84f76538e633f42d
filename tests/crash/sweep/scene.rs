//! One case, killed at one point, to its end and to the verdict.

use std::{
    fmt,
    process::Stdio,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use stackferry::rehearsal::{
    air::{Answer, EtherError},
    auditor::{Auditor, Promise, Side, prove_alive},
};

use super::{
    Scope,
    cases::{Case, Stage},
    kill::Killer,
    outcome::{self, Stored},
    point::Point,
    trace::{self, Stop, Write},
};
use crate::world::{
    APP, Ran, World, dev,
    traffic::{Field, Watched},
};

/// Starts of the client that are allowed after a kill until it ends with 0.
pub const MOST_RESTARTS: usize = 2;
/// The same command again for devices that wait for something on the air. It ends with 0 each time.
const MOST_AGAIN: usize = 12;

/// What happens on the air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Air {
    /// Nothing: then two ends are equal to the last byte.
    Quiet,
    /// The devices join, send and are sent to between any two calls, by this seed.
    Traffic(u64),
    /// The same from where the sweep begins; before that by the second seed.
    After(u64, u64),
}

impl fmt::Display for Air {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiet => f.write_str("quiet"),
            Self::Traffic(seed) => write!(f, "traffic-{seed}"),
            Self::After(seed, first) => write!(f, "traffic-{seed}-after-{first}"),
        }
    }
}

impl FromStr for Air {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no air: quiet, traffic-12 or traffic-12-after-3");
        let number = |seed: &str| seed.parse().map_err(|_| wrong());
        match (text.strip_prefix("traffic-"), text) {
            (Some(seeds), _) => match seeds.split_once("-after-") {
                Some((seed, first)) => Ok(Self::After(number(seed)?, number(first)?)),
                None => number(seeds).map(Self::Traffic),
            },
            (None, "quiet") => Ok(Self::Quiet),
            _ => Err(wrong()),
        }
    }
}

/// How it went.
#[derive(Debug)]
pub struct Played {
    /// The point came, and the client was killed there.
    pub killed: bool,
    /// The call of the point is one that may change something.
    pub is_write: bool,
    /// Starts after the kill until the killed command ended with 0.
    pub restarts: usize,
    /// Of each call that counts, whether it may change something.
    pub calls: Vec<bool>,
    /// Changes of files of the journal, when they were counted.
    pub writes: Vec<Write>,
    /// What both servers held before the first command, but for what the air changes.
    pub before: Stored,
    /// What both servers hold: all of it on a quiet air, and what the air does not change otherwise.
    pub stored: Stored,
}

/// Everything of one run.
pub struct Scene {
    pub world: World,
    pub(super) killer: Arc<Killer>,
    target: &'static str,
    pub(super) point: Point,
    counted: bool,
    pub(super) field: Option<Arc<Mutex<Field>>>,
    pub(super) auditor: Option<Auditor>,
    pub(super) writes: Vec<Write>,
    pub(super) killed: bool,
    pub(super) restarts: usize,
}

/// Plays `case`. An error is a violation, in words. `counted`: the changes of the journal are counted.
pub fn play(case: &Case, point: Point, air: Air, counted: bool) -> Result<Played, String> {
    let mut scene = Scene::new(case, point, air, counted);
    let before = outcome::settled(&scene.world);
    scene.stages(&case.stages())?;
    scene.end(case, air, before)
}

impl Scene {
    pub fn new(case: &Case, point: Point, air: Air, counted: bool) -> Self {
        let world = case.world();
        let watched = |world, seed| match case.is_swap() {
            true => Watched::swap(world, &case.simulated(), seed),
            false => Watched::new(world, &case.simulated(), seed),
        };
        let (world, on_air) = match air {
            Air::Quiet => (world, None),
            Air::Traffic(seed) | Air::After(_, seed) => {
                let Watched { world, field, auditor } = watched(world, seed);
                (world, Some((field, auditor)))
            }
        };
        let (field, auditor) = on_air.unzip();
        // After the traffic, so that a kill comes right before or after its call.
        let killer = Killer::new(&world, point, Scope::chosen().counts_every_call());
        Self {
            world,
            killer,
            target: case.target(),
            point,
            counted,
            field,
            auditor,
            writes: vec![],
            killed: false,
            restarts: 0,
        }
    }

    /// One stage after the other.
    pub fn stages(&mut self, stages: &[Stage]) -> Result<(), String> {
        stages.iter().try_for_each(|stage| self.stage(stage))
    }

    /// The verdict, and what there is in the end. `before`: what there was in the beginning.
    pub fn end(&mut self, case: &Case, air: Air, before: Stored) -> Result<Played, String> {
        if let (Air::Quiet, Some(last)) = (air, case.stages().last()) {
            self.again_writes_nothing(last)?;
        }
        let stored = match air {
            Air::Quiet => outcome::whole(&self.world),
            _ => outcome::settled(&self.world),
        };
        self.judge(case)?;
        Ok(Played {
            killed: self.killed,
            is_write: self.killer.chosen().is_some_and(|call| call.is_write),
            restarts: self.restarts,
            calls: self.killer.calls(),
            writes: std::mem::take(&mut self.writes),
            before,
            stored,
        })
    }

    /// The command of a stage, until it is over.
    pub fn stage(&mut self, stage: &Stage) -> Result<(), String> {
        self.world.config_to(self.target, &stage.config);
        self.killer.begin(stage.swept, stage.cut);
        if let (Some(auditor), "rollback") = (&self.auditor, stage.verb) {
            auditor.protect(Side::Target);
        }
        let mut again = 0;
        let mut ended = true;
        loop {
            let before = self.killed;
            let ran = self.start(stage);
            if stage.cut.is_some() && ran.code.is_none() {
                return Ok(());
            }
            if self.killed && !before {
                ended = false;
                self.stir(5);
                continue;
            }
            if std::env::var_os("STACKFERRY_SWEEP_ONLY").is_some() {
                println!("-- {} {:?}\n{}", stage.verb, ran.code, ran.out);
            }
            self.restarts += usize::from(!ended);
            let words = || format!("stdout:\n{}\nstderr:\n{}", ran.out, ran.err);
            match ran.code {
                Some(0) => ended = true,
                Some(3) if ended && self.field.is_some() => {}
                // The air was in the way, not the kill.
                Some(3)
                    if self.field.is_some() && words().contains("1 device not moved: pending-session") =>
                {
                    ended = true
                }
                Some(3) if self.restarts < MOST_RESTARTS => continue,
                code => return Err(format!("{} ended with {code:?}\n{}", stage.verb, words())),
            }
            if self.field.is_none() || ran.code == Some(0) && is_over(&ran.out, stage.may_wait) {
                return Ok(());
            }
            again += 1;
            if again > MOST_AGAIN {
                return Err(format!("{} does not come to an end\n{}", stage.verb, words()));
            }
            self.settle();
        }
    }

    /// Starts the client once.
    pub fn start(&mut self, stage: &Stage) -> Ran {
        let mut command = self.world.command(stage.verb);
        command.arg("--yes");
        let so_far = self.writes.len();
        let committed = self.writes.iter().filter(|w| w.commits()).count();
        let stop = match self.point {
            _ if self.killed || !stage.swept => Stop::Never,
            Point::Write(n) => Stop::Before(n.saturating_sub(so_far)),
            Point::Written(n) => Stop::After(n.saturating_sub(so_far)),
            Point::Committed(n) => Stop::Committed(n.saturating_sub(committed)),
            _ => Stop::Never,
        };
        if stage.swept && (self.counted || stop != Stop::Never) {
            let traced = trace::run(&command, self.world.dir.path(), stop, &|| self.killer.calls().len());
            self.writes.extend(traced.writes);
            self.killed |= traced.fired;
            return Ran::of(traced.output);
        }
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client starts");
        self.killer.watch(i32::try_from(child.id()).expect("a process ID"));
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        // Only once: its number may be another's by the time that the point comes.
        self.killer.watch(0);
        self.killed |= stage.swept && self.killer.fired();
        ran
    }

    fn stir(&self, times: usize) {
        if let Some(field) = &self.field {
            let mut field = lock(field);
            (0..times).for_each(|_| field.stir());
        }
    }

    /// What a device waits for comes: some traffic, and in the end everybody is answered by somebody.
    fn settle(&self) {
        self.stir(10);
        if let Some(field) = &self.field {
            settle(&mut lock(field));
        }
    }

    /// S6.
    fn again_writes_nothing(&mut self, last: &Stage) -> Result<(), String> {
        let writes = |world: &World| world.source.writes().len() + world.target.writes().len();
        let before = writes(&self.world);
        self.killer.begin(false, None);
        let ran = self.world.call(last.verb, &["--yes"]);
        if ran.code != Some(0) || writes(&self.world) != before {
            return Err(format!(
                "once more after the end: {:?}, or it wrote\n{}{}",
                ran.code, ran.out, ran.err
            ));
        }
        Ok(())
    }

    /// The auditor, the air and the devices.
    pub fn judge(&mut self, case: &Case) -> Result<(), String> {
        if self.killed && self.restarts > MOST_RESTARTS {
            return Err(format!("{} restarts", self.restarts));
        }
        let (Some(field), Some(auditor)) = (&self.field, &self.auditor) else { return Ok(()) };
        let mut field = lock(field);
        if !field.wrong.is_empty() {
            return Err(format!("on the air: {}", field.wrong.join("; ")));
        }
        let Field { ether, devices, .. } = &mut *field;
        for device in devices {
            if case.may_drop() && device.joins() {
                // A device that is not answered any more joins again after some time; one that is loses nothing by it.
                ether.join(device).map_err(|why| format!("{:?} joins again: {why}", device.identity()))?;
            }
            let proof = prove_alive(ether, device)?;
            if proof.network != case.ends_at() {
                return Err(format!("{:?} is served by {}", device.identity(), proof.network));
            }
        }
        // What cannot be muted is cleared first, from its seal: the one exception of SAFETY.md.
        let excepted = case.keys_alone().map(|number| format!("{APP}.{}", dev(number)));
        let breaches = auditor.finish();
        let breaches = breaches
            .iter()
            .filter(|breach| breach.promise != Promise::S1 || Some(&breach.device) != excepted.as_ref());
        let breaches: Vec<_> = breaches.map(ToString::to_string).collect();
        if breaches.is_empty() { Ok(()) } else { Err(breaches.join("; ")) }
    }
}

/// Every device sends; one that nobody answers joins, and sends again: what waits for a device can go on.
fn settle(field: &mut Field) {
    let Field { ether, devices, wrong, .. } = field;
    for device in devices.iter_mut().filter(|device| !device.is_multicast()) {
        let answered = |answer: Result<Answer, EtherError>| match answer {
            Ok(answer) => Ok(answer.answered_by.is_some()),
            Err(EtherError::Device(_)) => Ok(false),
            Err(error) => Err(error),
        };
        let mut sent = answered(ether.uplink(device, 1, b"up", true));
        if matches!(sent, Ok(false)) && device.joins() {
            sent = ether.join(device).and_then(|_| answered(ether.uplink(device, 1, b"up", true)));
        }
        if let Err(error) = sent {
            wrong.push(format!("{:?}: {error}", device.identity().dev_eui));
        }
    }
}

/// True when the same command has nothing left to do. On hold, that is when every device has been begun: `clear` begins
/// nothing, so one that waits at the source for something on the air would rightly stay there for ever.
fn is_over(out: &str, on_hold: bool) -> bool {
    let mut waiting =
        out.lines().filter(|line| line.contains("waiting: ") || line.contains("cannot come back now"));
    let begun = ["the clear is on hold", "on the target; not seen there yet"];
    waiting.all(|line| on_hold && begun.iter().any(|what| line.contains(what)))
}

#[test]
fn a_run_on_hold_is_over_once_every_device_is_begun() {
    let held = "  … 1 device waiting: the clear is on hold (clear.hold)\n  … 1 device waiting: on the target; not seen there yet";
    assert!(is_over(held, true) && !is_over(held, false));
    let joined = format!("{held}\n  … 1 device waiting: the device has joined and not sent an uplink yet");
    assert!(!is_over(&joined, true));
    assert!(!is_over("  x 1 device cannot come back now: the device has joined", false));
    assert!(is_over("  + 3 devices moved", false));
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
