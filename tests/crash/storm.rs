//! The fault storm: everything goes wrong on both sides while `run` is executed again and again. Then the weather calms
//! down, and the same command must end with every device alive on the right side and nothing lost.
//!
//! `STACKFERRY_STORM=7` runs the history of seed 7 alone, `STACKFERRY_STORM_HISTORIES=200` the first 200.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use stackferry::{
    map::path,
    rehearsal::{
        auditor::{Auditor, Breach, Promise, Side, Terms, prove_alive},
        store::Table,
    },
};

use crate::{
    process::{in_memory, number, watched},
    weather::{Climate, DEADLINE, Dice, Front, Weather},
    world::{
        self, APP, OTHER_APP, Ran, World, dev,
        traffic::{Field, terms},
    },
};

/// Histories without an environment variable: what a few minutes hold, and what is bearable in a debug build.
const HISTORIES: u64 = if cfg!(debug_assertions) { 4 } else { 120 };
/// They mostly wait, so more of them than processors live at once.
const AT_ONCE: usize = if cfg!(debug_assertions) { 4 } else { 32 };
/// So often is the command executed in calm weather, with traffic between: what waits for a device ends by then.
const CALM_RUNS: usize = 30;
const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];
/// Every so many seeds a move inside one deployment.
const SWAPS: u64 = 6;
/// The device that marks an application as worked on. Where its removal failed, the next run with work takes it away.
const MARKER: &str = "stackferry-lock";

#[test]
fn whatever_fails_nothing_is_lost() {
    in_memory();
    let alone = number("STACKFERRY_STORM");
    let count = number("STACKFERRY_STORM_HISTORIES").unwrap_or(HISTORIES);
    let seeds: Vec<u64> = alone.map_or_else(|| (1..=count).collect(), |seed| vec![seed]);
    let (next, told) = (AtomicU64::new(0), Mutex::new((Told::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    let result = catch_unwind(AssertUnwindSafe(|| History::new(*seed).play()));
                    let (told, failed) = &mut *told.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(one) => told.add(one),
                        Err(_) => failed.push(*seed),
                    }
                }
            });
        }
    });
    let (told, failed) = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("storm: {} histories, {}, {} violations", seeds.len(), told.words(), failed.len());
    assert!(
        failed.is_empty(),
        "each again with STACKFERRY_STORM=SEED, what was said is in {}: {failed:?}",
        file_of(0).with_file_name("storm-SEED.log").display()
    );
    assert!(alone.is_some() || told.faults() > 10 * count, "there was no storm");
}

/// What the histories had.
#[derive(Default)]
struct Told {
    devices: usize,
    runs: u64,
    by_hand: usize,
    faults: BTreeMap<&'static str, u64>,
    codes: BTreeMap<i32, u64>,
}

impl Told {
    fn add(&mut self, one: Self) {
        self.devices += one.devices;
        self.runs += one.runs;
        self.by_hand += one.by_hand;
        one.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
        one.codes.into_iter().for_each(|(code, n)| *self.codes.entry(code).or_default() += n);
    }

    fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    fn words(&self) -> String {
        let kinds: Vec<_> = self.faults.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let codes: Vec<_> = self.codes.iter().map(|(code, n)| format!("{n} ended with {code}")).collect();
        format!(
            "{} devices ({} left for a person), {} runs ({}), {} faults ({})",
            self.devices,
            self.by_hand,
            self.runs,
            codes.join(", "),
            self.faults(),
            kinds.join(", ")
        )
    }
}

/// One seed.
struct History {
    seed: u64,
    dice: Dice,
    /// Inside one deployment, to another application.
    swap: bool,
    world: World,
    /// On the air, by number.
    numbers: Vec<usize>,
    /// Devices with a JS record and no NS record: cleared first, and never on the air.
    unmutable: Vec<usize>,
    /// Devices that were found muted: they come back as they were, and then no network answers them.
    muted: Vec<usize>,
    /// True once everything was at the source again: the auditor forgets nothing.
    came_back: bool,
    before: [usize; 4],
    auditor: Auditor,
    field: Arc<Mutex<Field>>,
    weather: Arc<Weather>,
    told: Told,
    /// Commands in bad weather so far.
    turns: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        fs::remove_file(file_of(seed)).ok();
        let mut dice = Dice::new(seed);
        let numbers = fleet(&mut dice);
        let swap = seed % SWAPS == 0;
        let some = dice.below(3) == 0 && !swap;
        let unmutable: Vec<usize> = if some { vec![70 + *dice.of(&[0, 4, 6, 7])] } else { vec![] };
        let all = [numbers.as_slice(), &unmutable].concat();
        let world = if swap { World::one_deployment(&all) } else { World::some(&all) };
        for number in &unmutable {
            world.source.remove(Table::Ns, APP, &dev(*number));
        }
        let mut field = match swap {
            true => Field::of(&world, &numbers, seed, &[("both", &world.source.tts)]),
            false => Field::new(&world, &numbers, seed),
        };
        if dice.below(2) == 0 {
            join(&mut field);
        }
        let auditor = Auditor::new(Terms { swap, ..terms() });
        auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
        auditor.attach(Side::Target, &mut world.target.tts.store(), Some(target_app(swap)));
        let climate =
            Climate { intensity: *dice.of(&[10, 30, 60, 100, 180, 300]), eleven_days: dice.below(6) == 0 };
        let ip = |side: u8| {
            if cfg!(target_os = "linux") {
                [127, side, (seed >> 8) as u8, seed as u8]
            } else {
                [127, 0, 0, 1]
            }
        };
        let fronts =
            [Front::new(&world, &world.source.tts, ip(100)), Front::new(&world, &world.target.tts, ip(101))];
        let config = config(&mut dice, &fronts, swap);
        fs::write(world.dir.path().join("move.toml"), config).expect("a file");
        let weather = Weather::new(seed, climate, fronts);
        let field = Arc::new(Mutex::new(field));
        let sides = [&world.source, &world.target];
        for (index, side) in sides.into_iter().enumerate().take(if swap { 1 } else { 2 }) {
            let (weather, field) = (Arc::clone(&weather), Arc::clone(&field));
            side.tts.on_call(move |call| {
                field.lock().unwrap_or_else(PoisonError::into_inner).stir();
                let to_target = swap && call.entity.contains(OTHER_APP);
                weather.strike(if to_target { 1 } else { index }, call)
            });
        }
        let before = counts(&world.source, APP);
        let is_found_muted = |number: &usize| {
            world.source.record(Table::Ns, APP, &dev(*number)).is_some_and(|ns| world::is_muted(&ns))
        };
        let muted = numbers.iter().copied().filter(is_found_muted).collect();
        let told = Told { devices: numbers.len() + unmutable.len(), ..Told::default() };
        Self {
            seed,
            dice,
            swap,
            world,
            numbers,
            unmutable,
            muted,
            came_back: false,
            before,
            auditor,
            field,
            weather,
            told,
            turns: 0,
        }
    }

    fn field(&self) -> MutexGuard<'_, Field> {
        self.field.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn play(mut self) -> Told {
        let (forth, back) = *self.dice.of(&[(true, false), (true, false), (true, true), (false, true)]);
        self.storm("run");
        if forth {
            self.let_go();
            let last = self.calm("run");
            self.audit("target", &last);
        }
        if back {
            self.auditor.protect(Side::Target);
            self.storm("rollback");
            let last = self.calm("rollback");
            self.came_back = true;
            self.audit("source", &last);
        }
        if !forth {
            // A device that came back can go again.
            self.auditor.protect(Side::Source);
            self.let_go();
            let last = self.calm("run");
            self.audit("target", &last);
        }
        fs::remove_file(file_of(self.seed)).ok();
        self.told.faults = self.weather.total();
        self.told
    }

    /// The command again and again in bad weather; a hold is taken out on the way.
    fn storm(&mut self, verb: &str) {
        let runs = 2 + self.dice.below(4);
        let release = self.dice.below(runs);
        for run in 1..=runs {
            if run > release {
                self.let_go();
            }
            self.turns += 1;
            self.weather.turn(self.turns);
            let ran = self.run(verb);
            self.judge(&ran);
            self.stir(20);
        }
        self.weather.turn(0);
    }

    fn run(&mut self, verb: &str) -> Ran {
        let ran = watched(&self.world, verb, &["--yes", "-vv"], |_| ());
        self.write_down(verb, &ran);
        self.told.runs += 1;
        *self.told.codes.entry(ran.code.unwrap_or(-1)).or_default() += 1;
        ran
    }

    /// Appends what was said to the file of this seed, which stays when the history fails.
    fn write_down(&self, verb: &str, ran: &Ran) {
        let file = File::options().append(true).create(true).open(file_of(self.seed));
        let weather = self.weather.of_run();
        let text = format!("== {verb} ended with {:?} in {weather:?}\n{}\n{}\n", ran.code, ran.err, ran.out);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    }

    fn stir(&self, times: usize) {
        let mut field = self.field();
        (0..times).for_each(|_| field.stir());
    }

    /// Takes a hold out of the configuration.
    fn let_go(&self) {
        let path = self.world.dir.path().join("move.toml");
        let text = fs::read_to_string(&path).expect("written");
        fs::write(&path, text.replace("hold = true\n", "")).expect("a file");
    }

    /// Each exit code has something that happened in this run to thank for.
    fn judge(&self, ran: &Ran) {
        let faults = self.weather.of_run();
        let any = |kinds: &[&str]| kinds.iter().any(|kind| faults.contains_key(kind));
        let legitimate = match ran.code {
            Some(0 | 3) => true,
            // A busy machine may let a deadline pass without our doing.
            Some(4) => true,
            Some(5) => any(&["PERMISSION_DENIED", "UNAUTHENTICATED"]),
            Some(1) => !faults.is_empty(),
            // Its lock could not be renewed: then it writes nothing more.
            Some(6) => !faults.is_empty() && ran.err.contains("not in the hands of this run any more"),
            _ => false,
        };
        assert!(legitimate, "seed {}: a run ended with {:?} in {faults:?}\n{ran:?}", self.seed, ran.code);
    }

    /// The same command, until it ends.
    fn calm(&mut self, verb: &str) -> Ran {
        let mut last = None;
        for _ in 0..CALM_RUNS {
            let ran = self.run(verb);
            let waits = ran.out.contains("waiting") || ran.out.contains("cannot come back now");
            // 4: a busy machine may let a deadline pass.
            assert!(matches!(ran.code, Some(0 | 3 | 4)), "seed {}: in calm weather\n{ran:?}", self.seed);
            let over = ran.code == Some(0) && !waits;
            last = Some(ran);
            if over {
                break;
            }
            self.stir(100);
        }
        last.expect("it ran")
    }

    /// Everything is on this side, whole and alive, and nowhere else.
    fn audit(&mut self, side: &str, last: &Ran) {
        let text = format!("seed {}: {}\n{}\n{}", self.seed, self.config(), last.out, last.err);
        let stuck = self.stuck(last);
        self.told.by_hand += stuck.len();
        if stuck.is_empty() {
            self.is_complete(side, last, &text);
        }
        for number in &self.unmutable {
            let at = if side == "target" { &self.world.target } else { &self.world.source };
            let js = at.record(Table::Js, APP, &dev(*number));
            let js = js.unwrap_or_else(|| panic!("the keys of {} are lost: {text}", dev(*number)));
            assert!(path::has(&js, "root_keys"), "{text}");
        }
        let mut field = self.field();
        assert_eq!(field.wrong, [""; 0], "the air: {text}");
        let Field { ether, devices, .. } = &mut *field;
        for (device, number) in devices.iter_mut().zip(&self.numbers) {
            if side == "source" && self.muted.contains(number) {
                let ns = self.world.source.record(Table::Ns, APP, &dev(*number));
                assert!(
                    ns.is_some_and(|ns| world::is_muted(&ns)),
                    "{} was found muted: {text}",
                    dev(*number)
                );
                continue;
            }
            // A device whose session was dropped notices that nobody answers, and joins again.
            let answered =
                ether.uplink(device, 1, b"up", true).is_ok_and(|answer| answer.answered_by.is_some());
            if !answered && device.joins() {
                ether.join(device).unwrap_or_else(|why| panic!("{}: {why}: {text}", dev(*number)));
            }
            let proof = prove_alive(ether, device).unwrap_or_else(|why| panic!("{why}: {text}"));
            let right = proof.network == side || self.swap || stuck.contains(&dev(*number));
            assert!(right, "{} is served by {}: {text}", dev(*number), proof.network);
        }
        drop(field);
        let breaches: Vec<_> =
            self.auditor.finish().into_iter().filter(|b| !self.is_agreed(b)).map(|b| b.to_string()).collect();
        assert_eq!(breaches, [""; 0], "{text}");
    }

    fn is_complete(&self, side: &str, last: &Ran, text: &str) {
        let World { source, target, .. } = &self.world;
        assert_eq!(last.code, Some(0), "it does not end: {text}");
        assert!(!last.out.contains("waiting"), "it waits for ever: {text}");
        let other = target_app(self.swap);
        let (there, app, verb) = match side {
            "target" => (target, other, "run"),
            _ => (source, APP, "rollback"),
        };
        assert_eq!(counts(there, app), self.before, "records were lost: {text}");
        if self.swap {
            let (left, app) = if side == "target" { (source, APP) } else { (target, other) };
            // A mute that was sent and applied after the delete makes an empty record (docs/servers.md, NS Set): no device.
            let empty = left
                .count_if(Table::Ns, app, |ns| !path::has(ns, "ids.dev_eui") && !path::has(ns, "session"));
            let [is, js, as_, ns] = counts(left, app);
            assert_eq!([is, js, as_, ns - empty], [0; 4], "it exists twice: {text}");
        }
        if side == "target" {
            watched(&self.world, "verify", &[], |_| ()).expect(0);
        } else {
            assert_eq!(counts(target, other), [0; 4], "left on the target: {text}");
        }
        // The first one may remove a marker.
        watched(&self.world, verb, &["--yes"], |_| ()).expect(0);
        let writes = || (source.writes().len(), target.writes().len());
        let before = writes();
        watched(&self.world, verb, &["--yes"], |_| ()).expect(0);
        assert_eq!(writes(), before, "`{verb}` after success wrote: {text}");
    }

    /// A device without NS record leaves the source first: the configuration asks for it by name. One that was found muted
    /// is so again once it is back.
    fn is_agreed(&self, breach: &Breach) -> bool {
        let among =
            |numbers: &[usize]| numbers.iter().any(|n| breach.device.ends_with(&format!(".{}", dev(*n))));
        match breach.promise {
            Promise::S1 => among(&self.unmutable),
            Promise::S3 => self.came_back && among(&self.muted),
            _ => false,
        }
    }

    /// Devices that came alive on the target while the undo of a refusal was under way: a person decides.
    fn stuck(&self, last: &Ran) -> BTreeSet<String> {
        if !last.out.contains("needs a look") {
            return BTreeSet::new();
        }
        let all = self.numbers.iter().map(|n| dev(*n));
        all.filter(|name| last.out.contains("live-on-target") && last.out.contains(name.as_str())).collect()
    }

    fn config(&self) -> String {
        fs::read_to_string(self.world.dir.path().join("move.toml")).unwrap_or_default()
    }
}

/// How many devices each component has, without the marker of the lock.
fn counts(side: &world::Side, app: &str) -> [usize; 4] {
    let marker = usize::from(side.record(Table::Is, app, MARKER).is_some());
    let [is, rest @ ..] = TABLES.map(|table| side.count(table, app));
    let [js, as_, ns] = rest;
    [is - marker, js, as_, ns]
}

fn target_app(swap: bool) -> &'static str {
    if swap { OTHER_APP } else { APP }
}

/// Where everything that a history said is kept until it has ended well.
fn file_of(seed: u64) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("storm-{seed}.log"))
}

/// Some of each kind of the fixture, but none with downlinks in its queue.
fn fleet(dice: &mut Dice) -> Vec<usize> {
    let kinds = [0, 1, 2, 13, 4, 5, 6, 7, 8, 9];
    let count = 3 + dice.below(4);
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < count {
        let kind = *dice.of(&kinds);
        numbers.insert(if kind == 13 { 13 } else { kind + 10 * dice.below(3) as usize });
    }
    numbers.into_iter().collect()
}

/// The first device that can join does, and does not send yet.
fn join(field: &mut Field) {
    let Field { ether, devices, .. } = field;
    if let Some(device) = devices.iter_mut().find(|device| device.joins()) {
        ether.join(device).expect("the source accepts it");
    }
}

fn config(dice: &mut Dice, fronts: &[Front; 2], swap: bool) -> String {
    let session = dice.of(&["keep", "drop", "auto"]);
    let mode = dice.of(&["keys", "keys", "delete", "delete", "mute", "nothing"]);
    let mode = if swap { "delete" } else { mode };
    let when = dice.of(&["", "", "when = \"seen\"\n", "when = \"verified\"\n"]);
    let hold = dice.of(&["", "", "hold = true\n"]);
    let in_flight = dice.of(&[1, 2, 8]);
    let failures = dice.of(&[2, 1000]);
    format!(
        r#"[source.tts]
address = "{}"
known-as = ["127.0.0.1"]
insecure = true
api-key = {{ env = "SOURCE_KEY" }}

[target.tts]
address = "{}"
insecure = true
api-key = {{ env = "TARGET_KEY" }}
owner = {{ user = "admin" }}

[journal]
path = "test.journal"

[[application]]
source = "{APP}"
target = "{}"

[transform]
session = "{session}"
allow-loss = ["picture", "queued-downlinks", "muted-source", "clear-without-mute"]

[rollout]
in-flight = {in_flight}
max-failures = {failures}

[clear]
mode = "{mode}"
{when}{hold}
[limits]
deadline = "{}ms"
connect-timeout = "{}ms"
"#,
        fronts[0].addr,
        fronts[1].addr,
        target_app(swap),
        DEADLINE.as_millis(),
        DEADLINE.as_millis(),
    )
}
