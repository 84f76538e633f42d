//! What is migrated and how: a pairwise set over everything that changes the order of the steps.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, Value};
use stackferry::{map::path, rehearsal::store::Table};

use crate::world::{APP, OTHER_APP, World, dev};

/// Names and values of the choices. Every pair of values of two choices is in at least one case.
const CHOICES: [(&str, &[&str]); 7] = [
    ("strategy", &["mute-source", "clear-first", "swap"]),
    ("session", &["keep", "drop", "auto"]),
    ("clear", &["nothing", "mute", "keys", "delete"]),
    ("when", &["default", "seen", "verified"]),
    // `hold` goes on with the same command and another configuration, `clear` with the command of that name.
    ("hold", &["go", "hold", "clear"]),
    // `after` the run has ended; or `midway`, after a run that was killed and is not started again.
    ("rollback", &["no", "after", "midway"]),
    ("in-flight", &["1", "2"]),
];

/// What cannot be chosen together: a swap deletes, and a run that is rolled back midway has not come to its clear.
fn is_possible(row: &[&str]) -> bool {
    let has = |value| row.contains(&value);
    (!has("swap") || has("delete")) && (!has("midway") || has("go"))
}

/// Where a run is left `midway`: three devices take about 140 calls.
const MIDWAY: usize = 80;

/// One way to migrate three devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// One value of each choice.
    chosen: Vec<&'static str>,
    /// The fixture's devices.
    pub numbers: Vec<usize>,
}

/// One command of a case, repeated until it is over.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Arguments before the configuration.
    pub verb: &'static str,
    /// What follows the sides in the configuration.
    pub config: String,
    /// True when it may end with devices that wait.
    pub may_wait: bool,
    /// True when it is swept: the calls of others do not count.
    pub swept: bool,
    /// The call at which it is killed for good.
    pub cut: Option<usize>,
}

/// OTAA in the target's address block (kept by `auto`), OTAA outside of it (dropped by `auto`), ABP.
const THREE: [usize; 3] = [1, 4, 2];
/// One of each kind of the fixture.
const TEN: [usize; 10] = [0, 1, 2, 13, 4, 5, 6, 7, 8, 9];

impl Case {
    /// The pairwise set.
    pub fn all() -> Vec<Self> {
        let mut missing = pairs_of_all();
        let every = combinations();
        let mut cases = Vec::new();
        while !missing.is_empty() {
            let covers = |row: &Vec<&'static str>| pairs(row).intersection(&missing).count();
            // The first of the best, so that the set is the same in every run.
            let best = every.iter().rev().max_by_key(|row| covers(row)).cloned().unwrap_or_default();
            missing = missing.difference(&pairs(&best)).copied().collect();
            cases.push(Self { chosen: best, numbers: THREE.to_vec() });
        }
        cases
    }

    /// The same with one device of each kind.
    pub fn with_ten_devices(mut self) -> Self {
        self.numbers = TEN.to_vec();
        self
    }

    /// The case of this name.
    pub fn named(name: &str) -> Option<Self> {
        let (name, ten) = name.strip_suffix("+ten").map_or((name, false), |name| (name, true));
        let chosen: Vec<_> = combinations().into_iter().find(|row| row.join("+") == name)?;
        let case = Self { chosen, numbers: THREE.to_vec() };
        Some(if ten { case.with_ten_devices() } else { case })
    }

    /// Its values, joined.
    pub fn name(&self) -> String {
        let ten = if self.numbers.len() == THREE.len() { "" } else { "+ten" };
        self.chosen.join("+") + ten
    }

    fn value(&self, choice: &str) -> &'static str {
        let index = CHOICES.iter().position(|(name, _)| *name == choice).expect("a choice");
        self.chosen[index]
    }

    /// The devices that have a radio: the one with root keys alone is nowhere registered to be heard.
    pub fn simulated(&self) -> Vec<usize> {
        let keys_alone = self.keys_alone();
        self.numbers.iter().copied().filter(|n| Some(*n) != keys_alone).collect()
    }

    /// The device that has only root keys and a name: it cannot be muted, and is cleared first.
    pub fn keys_alone(&self) -> Option<usize> {
        (self.value("strategy") == "clear-first").then_some(1)
    }

    /// True when source and target are two applications of one deployment.
    pub fn is_swap(&self) -> bool {
        self.value("strategy") == "swap"
    }

    /// Source and target before the first command.
    pub fn world(&self) -> World {
        let world =
            if self.is_swap() { World::one_deployment(&self.numbers) } else { World::some(&self.numbers) };
        for table in [Table::Ns, Table::As] {
            world.source.edit(table, APP, &dev(1), move_address);
            if let Some(number) = self.keys_alone() {
                world.source.remove(table, APP, &dev(number));
            }
        }
        world
    }

    /// The commands, in order.
    pub fn stages(&self) -> Vec<Stage> {
        let back = self.goes_back();
        let stage = |verb, hold| Stage {
            verb,
            config: self.config(hold),
            may_wait: hold && verb == "run",
            swept: !back || verb == "rollback",
            cut: None,
        };
        let mut stages = match self.value("hold") {
            "go" => vec![stage("run", false)],
            "hold" => vec![stage("run", true), stage("run", false)],
            _ => vec![stage("run", true), stage("clear", true)],
        };
        if self.value("rollback") == "midway" {
            stages[0].cut = Some(MIDWAY);
        }
        stages.extend(back.then(|| stage("rollback", false)));
        stages
    }

    /// True when the devices are at the source in the end, as they were.
    pub fn goes_back(&self) -> bool {
        self.value("rollback") != "no"
    }

    /// What cannot come back to a source that has deleted the device, as SAFETY.md says.
    pub fn is_lost(&self) -> &'static [&'static str] {
        if self.value("clear") == "delete" { &["picture"] } else { &[] }
    }

    /// The network that must serve every device in the end.
    pub fn ends_at(&self) -> &'static str {
        match (self.is_swap(), self.goes_back()) {
            (true, _) => "both",
            (false, true) => "source",
            (false, false) => "target",
        }
    }

    /// The application on the target.
    pub fn target(&self) -> &'static str {
        if self.is_swap() { OTHER_APP } else { APP }
    }

    /// True when OTAA devices may have to join again: until then the target does not know them.
    pub fn may_drop(&self) -> bool {
        self.value("session") != "keep"
    }

    fn config(&self, hold: bool) -> String {
        let when = match self.value("when") {
            "default" => String::new(),
            when => format!("when = \"{when}\"\n"),
        };
        format!(
            "[transform]\nsession = \"{}\"\nallow-loss = [\"picture\", \"queued-downlinks\", \"clear-without-mute\"]\n\
             [rollout]\nin-flight = {}\n[clear]\nmode = \"{}\"\n{when}hold = {hold}\n",
            self.value("session"),
            self.value("in-flight"),
            self.value("clear"),
        )
    }
}

/// Puts a device into the target's address block.
fn move_address(record: &mut DynamicMessage) {
    for at in ["session.dev_addr", "ids.dev_addr"] {
        let mut addr = path::bytes(record, at);
        if let Some(first) = addr.first_mut() {
            *first = 0x01;
            path::set(record, at, Value::Bytes(addr.into()));
        }
    }
}

fn combinations() -> Vec<Vec<&'static str>> {
    let mut rows = vec![Vec::new()];
    for (_, values) in CHOICES {
        let longer = |row: &Vec<&'static str>| {
            let row = row.clone();
            values.iter().map(move |value| [row.clone(), vec![*value]].concat())
        };
        rows = rows.iter().flat_map(longer).collect();
    }
    rows.retain(|row| is_possible(row));
    rows
}

/// Two choices by number, each with its value.
type Pair = (usize, &'static str, usize, &'static str);

fn pairs(row: &[&'static str]) -> BTreeSet<Pair> {
    let with_rest = |(i, a): (usize, &&'static str)| {
        let a = *a;
        row.iter().enumerate().skip(i + 1).map(move |(j, b)| (i, a, j, *b)).collect::<Vec<_>>()
    };
    row.iter().enumerate().flat_map(with_rest).collect()
}

fn pairs_of_all() -> BTreeSet<Pair> {
    combinations().iter().flat_map(|row| pairs(row)).collect()
}

#[test]
fn every_pair_of_choices_is_in_a_case() {
    let covered: BTreeSet<_> = Case::all().iter().flat_map(|case| pairs(&case.chosen)).collect();
    for (i, (name, values)) in CHOICES.iter().enumerate() {
        for (j, (other, more)) in CHOICES.iter().enumerate().skip(i + 1) {
            for (a, b) in values.iter().flat_map(|a| more.iter().map(move |b| (a, b))) {
                let impossible = ["swap nothing", "swap mute", "swap keys", "hold midway", "clear midway"];
                if impossible.contains(&&*format!("{a} {b}")) {
                    continue;
                }
                assert!(covered.contains(&(i, a, j, b)), "{name} = {a} with {other} = {b}");
            }
        }
    }
    for case in Case::all() {
        assert_eq!(Case::named(&case.name()), Some(case));
    }
}
