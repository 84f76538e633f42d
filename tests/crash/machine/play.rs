//! Plays one history and judges after each operation.

use std::{
    fmt,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use stackferry::rehearsal::{
    Fault,
    auditor::{Auditor, Side, prove_alive},
};

use super::{Op, Wanted, edits::Edit};
use crate::{
    process::watched,
    world::{
        APP, Ran, World, dev,
        traffic::{Field, terms},
    },
};

/// OTAA with a session, OTAA 1.1, ABP, multicast.
pub const DEVICES: [usize; 4] = [1, 4, 2, 9];
/// At the end the same command is executed so often, with traffic between.
const LAST_RUNS: usize = 12;

/// What the histories had.
#[derive(Debug, Clone, Default)]
pub struct Played {
    pub operations: usize,
    pub commands: usize,
    pub kills: usize,
    pub edits: usize,
    pub told: usize,
}

impl Played {
    pub fn add(&mut self, one: &Self) {
        self.operations += one.operations;
        self.commands += one.commands;
        self.kills += one.kills;
        self.edits += one.edits;
        self.told += one.told;
    }
}

impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, commands, kills, edits, told } = self;
        write!(
            f,
            "{operations} operations, {commands} commands, {kills} kills, {edits} edits ({told} named by a command)"
        )
    }
}

/// Who is to be killed, and when.
#[derive(Default)]
struct Killer {
    pid: AtomicU32,
    calls_left: AtomicUsize,
}

impl Killer {
    fn call(&self) -> Option<Fault> {
        let left = self.calls_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left != Ok(1) {
            return None;
        }
        while self.pid.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = self.pid.load(Ordering::SeqCst);
        Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
        Some(if pid.is_multiple_of(2) { Fault::CutAfter } else { Fault::CutBefore })
    }
}

struct Game {
    seed: u64,
    world: World,
    wanted: Wanted,
    hold: bool,
    auditor: Auditor,
    field: Arc<Mutex<Field>>,
    killer: Arc<Killer>,
    edits: Vec<Edit>,
    /// Every edit that was ever made.
    made: Vec<Edit>,
    has_run: bool,
    came_back: bool,
    last: String,
    played: Played,
}

/// Plays it.
///
/// # Errors
/// What was broken, and after which operation.
pub fn play(seed: u64, wanted: &Wanted, ops: &[Op]) -> Result<Played, String> {
    let mut game = Game::new(seed, wanted);
    for (index, op) in ops.iter().enumerate() {
        game.step(op)?;
        game.judge()
            .map_err(|why| format!("after operation {} ({op:?}): {why}\n{}", index + 1, game.last))?;
    }
    game.end()?;
    game.played.told = game.made.iter().filter(|edit| edit.told).count();
    Ok(game.played)
}

impl Game {
    fn new(seed: u64, wanted: &Wanted) -> Self {
        let world = World::some(&DEVICES);
        let auditor = Auditor::new(terms());
        auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
        auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
        let field = Arc::new(Mutex::new(Field::new(&world, &DEVICES, seed)));
        let killer = Arc::<Killer>::default();
        for side in [&world.source, &world.target] {
            let (field, killer) = (Arc::clone(&field), Arc::clone(&killer));
            side.tts.on_call(move |_| {
                field.lock().unwrap_or_else(PoisonError::into_inner).stir();
                killer.call()
            });
        }
        let hold = wanted.hold;
        let (wanted, played) = (wanted.clone(), Played::default());
        let game = Self {
            seed,
            world,
            wanted,
            hold,
            auditor,
            field,
            killer,
            edits: Vec::new(),
            made: Vec::new(),
            has_run: false,
            came_back: false,
            last: String::new(),
            played,
        };
        game.write_config();
        game
    }

    fn write_config(&self) {
        let Wanted { session, mode, when, .. } = &self.wanted;
        // Every other history lets a device go that a person has muted.
        let muted = if self.seed.is_multiple_of(2) { ", \"muted-source\"" } else { "" };
        self.world.config(&format!(
            "[transform]\nsession = \"{session}\"\nallow-loss = [\"picture\", \"queued-downlinks\"{muted}]\n\
             [clear]\nmode = \"{mode}\"\nhold = {}\n{when}\n",
            self.hold
        ));
    }

    fn field(&self) -> MutexGuard<'_, Field> {
        self.field.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stir(&self, times: usize) {
        let mut field = self.field();
        (0..times).for_each(|_| field.stir());
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        self.played.operations += 1;
        match op {
            Op::Plan => self.command("plan", &[], &[0, 3]),
            Op::Run => self.command("run", &["--yes"], &[0, 3]),
            Op::Kill(verb, n) => self.kill(verb, *n),
            // 6: no journal yet.
            Op::Verify => self.command("verify", &[], &[0, 3, 6]),
            Op::Status => self.command("status", &[], &[0, 6]),
            Op::Clear => self.command("clear", &["--yes"], &[0, 3, 6]),
            Op::Rollback(None) => self.command("rollback", &["--yes", "--application", APP], &[0, 3, 6]),
            Op::Rollback(Some(device)) => {
                self.command("rollback", &["--yes", "--device", &dev(DEVICES[*device])], &[0, 3, 6])
            }
            Op::Hold(on) => {
                self.hold = *on;
                self.write_config();
                Ok(())
            }
            Op::Traffic(times) => {
                self.stir(*times);
                Ok(())
            }
            Op::Edit { target, device, change } => {
                let n = self.made.len();
                let edit = Edit::make(&self.world, *target, DEVICES[*device], *change, n, !self.has_run);
                if let Some(edit) = edit {
                    self.edits.retain(|earlier| !earlier.is_replaced_by(&edit));
                    self.edits.iter_mut().for_each(|earlier| earlier.is_edited_further(&edit));
                    self.made.push(edit.clone());
                    self.edits.push(edit);
                    self.played.edits += 1;
                }
                Ok(())
            }
        }
    }

    /// A rollback takes from the target, everything else from the source: the other side must have it by then.
    fn begin(&mut self, verb: &str) {
        self.has_run |= verb == "run";
        match verb {
            "rollback" => {
                self.came_back = true;
                self.auditor.protect(Side::Target);
            }
            "run" | "clear" => self.auditor.protect(Side::Source),
            _ => {}
        }
    }

    fn command(&mut self, verb: &str, arguments: &[&str], codes: &[i32]) -> Result<(), String> {
        self.begin(verb);
        let ran = watched(&self.world, verb, arguments, |_| ());
        self.hear(verb, &ran);
        let fine = ran.code.is_some_and(|code| codes.contains(&code));
        if fine { Ok(()) } else { Err(format!("`{verb}` ended with {:?}:\n{}", ran.code, self.last)) }
    }

    fn kill(&mut self, verb: &str, n: usize) -> Result<(), String> {
        self.begin(verb);
        self.killer.pid.store(0, Ordering::SeqCst);
        self.killer.calls_left.store(n, Ordering::SeqCst);
        let killer = Arc::clone(&self.killer);
        let ran = watched(&self.world, verb, &["--yes"], move |child| {
            killer.pid.store(child.id(), Ordering::SeqCst);
        });
        self.killer.calls_left.store(0, Ordering::SeqCst);
        self.played.kills += usize::from(ran.code.is_none());
        self.hear(verb, &ran);
        match ran.code {
            // It was over before; 6: no journal yet.
            None | Some(0 | 3) => Ok(()),
            Some(6) if verb != "run" => Ok(()),
            code => Err(format!("ended with {code:?} in place of a kill:\n{}", self.last)),
        }
    }

    fn hear(&mut self, verb: &str, ran: &Ran) {
        self.played.commands += 1;
        self.last = format!("{verb}: {:?}\n{}\n{}", ran.code, ran.out, ran.err);
        let said = format!("{}\n{}", ran.out, ran.err);
        self.edits.iter_mut().chain(&mut self.made).for_each(|edit| edit.hear(&said));
    }

    fn judge(&self) -> Result<(), String> {
        if let Some(lost) = self.edits.iter().find_map(|edit| edit.lost(&self.world)) {
            return Err(lost);
        }
        self.promises(&self.auditor.breaches())
    }

    fn promises(&self, breaches: &[stackferry::rehearsal::auditor::Breach]) -> Result<(), String> {
        let by_people = |breach: &&stackferry::rehearsal::auditor::Breach| {
            let of_device = |edit: &&Edit| breach.device.ends_with(&format!(".{}", dev(edit.number)));
            !self.made.iter().filter(of_device).any(|edit| edit.excuses(breach.promise, self.came_back))
        };
        breaches.iter().find(by_people).map_or(Ok(()), |breach| Err(breach.to_string()))
    }

    /// Nobody does anything any more: the same command until it ends, and every device speaks.
    fn end(&mut self) -> Result<(), String> {
        self.hold = false;
        self.write_config();
        for _ in 0..LAST_RUNS {
            self.command("run", &["--yes"], &[0, 3])?;
            self.judge().map_err(|why| format!("in the end: {why}\n{}", self.last))?;
            if self.last.starts_with("run: Some(0)") && !self.last.contains("waiting") {
                break;
            }
            self.stir(60);
        }
        let untouched =
            |number: usize| !self.made.iter().any(|edit| edit.number == number && edit.disables());
        let mut field = self.field();
        let wrong: Vec<_> = field.wrong.clone();
        let Field { ether, devices, .. } = &mut *field;
        for (device, number) in devices.iter_mut().zip(DEVICES).filter(|(_, number)| untouched(*number)) {
            let name = format!("{:?}", device.identity().dev_eui);
            if let Some(wrong) = wrong.iter().find(|wrong| wrong.starts_with(&format!("{name}:"))) {
                return Err(format!("the air: {wrong}\n{}", self.last));
            }
            let told = |why: String| format!("{}: {why}\n{}", dev(number), self.last);
            // A device whose session was dropped notices that nobody answers, and joins again.
            let answered =
                ether.uplink(device, 1, b"up", true).is_ok_and(|answer| answer.answered_by.is_some());
            if !answered && device.joins() {
                ether.join(device).map_err(|why| told(why.to_string()))?;
            }
            prove_alive(ether, device).map_err(told)?;
        }
        drop(field);
        self.promises(&self.auditor.finish()).map_err(|why| format!("in the end: {why}\n{}", self.last))
    }
}
