//! The journal of real runs: whatever happens to its files, its disk, its key or its lock, the answer is an error with a
//! name or the history as it was written.

mod disks;
mod durable;
mod golden;
mod image;
mod keys;
mod locks;
mod page;
mod reader;
mod runs;
mod sweep;
mod tamper;

use std::process::{Command, Stdio};

use prost_reflect::DynamicMessage;
use stackferry::rehearsal::{
    auditor::{Auditor, Side},
    store::Table,
};

use crate::world::{APP, Ran, World, traffic::terms};

/// Numbers that look random and are the same in every run (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one case of a seed.
    pub fn new(seed: u64, case: usize) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ case as u64);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `below`, or 0.
    pub fn roll(&mut self, below: usize) -> usize {
        (self.next() % below.max(1) as u64) as usize
    }

    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

/// OTAA with its session kept, OTAA and ABP go over, one at a time, and are cleared at the source.
const CONFIG: &str = "[transform]\nsession = \"keep\"\n[rollout]\nin-flight = 1\n[clear]\nmode = \"keys\"\n";

/// The number that names a whole sweep: `STACKFERRY_SEED`, or 1.
pub fn seed() -> u64 {
    std::env::var("STACKFERRY_SEED").ok().map_or(1, |text| text.parse().expect("a number in STACKFERRY_SEED"))
}

/// The devices of [`CONFIG`].
const DEVICES: [usize; 3] = [1, 4, 2];
/// For [`shell`]: 2 GB of address space.
const MORE_MEMORY_THAN_ENOUGH: &str = "ulimit -v 2000000";

/// All records of both sides without the times of their last change.
pub fn stored(world: &World) -> Vec<(Table, String, DynamicMessage)> {
    let mut all = Vec::new();
    for (side, name) in [(&world.source, "source"), (&world.target, "target")] {
        let store = side.tts.store();
        for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
            for (key, message) in store.iter(table).filter(|(k, _)| k.starts_with(APP)) {
                let mut message = message.clone();
                ["created_at", "updated_at"].iter().for_each(|time| message.clear_field_by_name(time));
                all.push((table, format!("{name} {key}"), message));
            }
        }
    }
    all
}

/// Puts the auditor's eyes on both sides.
pub fn watch(world: &World) -> Auditor {
    let auditor = Auditor::new(terms());
    auditor.attach(Side::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Side::Target, &mut world.target.tts.store(), Some(APP));
    auditor
}

/// What the auditor saw.
pub fn breaches(auditor: &Auditor) -> Vec<String> {
    auditor.finish().iter().map(ToString::to_string).collect()
}

/// Calls that change something, on both sides.
pub fn writes(world: &World) -> usize {
    world.source.writes().len() + world.target.writes().len()
}

/// `verb`, and `--yes` with `run`, in a shell that has done `before`; or as the last words of `wrap`.
pub fn shell(world: &World, verb: &str, before: &str, wrap: &[&str]) -> Ran {
    let inner = world.command(verb);
    let mut outer = Command::new("sh");
    outer.args(["-c", &format!("{before}; exec \"$@\""), "sh"]).args(wrap);
    outer.arg(inner.get_program()).args(inner.get_args());
    if verb == "run" {
        outer.arg("--yes");
    }
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ran::of(outer.stdin(Stdio::null()).output().expect("a shell"))
}
