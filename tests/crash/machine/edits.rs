//! What people change on either side, and whether it is still there.

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::path,
    rehearsal::{auditor::Promise, store::Table},
};

use crate::world::{APP, Side, World, dev};

const MUTE: &str = "mac_settings.schedule_downlinks";
const KEY: &str = "root_keys.app_key.key";
const COUNTER: &str = "session.last_n_f_cnt_down";
const SESSION: &str = "session.keys.f_nwk_s_int_key.key";
const TABLES: [(Table, &str); 4] =
    [(Table::Is, "IS"), (Table::Js, "JS"), (Table::As, "AS"), (Table::Ns, "NS")];

/// What somebody does to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Gives it another name.
    Name,
    /// Another AppKey.
    Key,
    /// Sets the downlink counter of its session forward.
    Counter,
    /// Switches its downlinks off, or back on.
    Mute(bool),
    /// Removes one of its records: IS, JS, AS or NS.
    Delete(usize),
}

/// An edit that a person made, and what must be left of it.
#[derive(Debug, Clone)]
pub struct Edit {
    pub target: bool,
    pub number: usize,
    pub change: Change,
    /// Made at the source when nothing had been run yet: it must be copied.
    pub early: bool,
    /// A command has named it since: a person knows.
    pub told: bool,
    table: Table,
    value: Option<Value>,
    session: Vec<u8>,
}

impl Edit {
    /// Makes the change, unless what is to be changed is not there. The `n`-th edit writes values of its own.
    pub fn make(
        world: &World,
        target: bool,
        number: usize,
        change: Change,
        n: usize,
        early: bool,
    ) -> Option<Self> {
        let table = match change {
            Change::Name => Table::Is,
            Change::Key => Table::Js,
            Change::Counter | Change::Mute(_) => Table::Ns,
            Change::Delete(which) => TABLES[which].0,
        };
        let side = side(world, target);
        let before = side.record(table, APP, &dev(number))?;
        let value = match change {
            Change::Name => Some(Value::String(format!("edited-{n}"))),
            Change::Key => path::has(&before, KEY).then(|| Value::Bytes(vec![n as u8 + 1; 16].into())),
            Change::Counter if path::has(&before, SESSION) => {
                let now = path::number(&before, COUNTER);
                Some(Value::U32(u32::try_from(now).unwrap_or(0).saturating_add(100)))
            }
            Change::Counter => None,
            Change::Mute(_) | Change::Delete(_) => None,
        };
        let session = path::bytes(&before, SESSION);
        match (change, &value) {
            (Change::Delete(_), _) => side.remove(table, APP, &dev(number)),
            (Change::Mute(true), _) => side.edit(table, APP, &dev(number), |ns| {
                path::set_wrapped(ns, MUTE, Value::Bool(false));
            }),
            (Change::Mute(false), _) if path::wrapped_flag(&before, MUTE).is_none() => return None,
            (Change::Mute(false), _) => side.edit(table, APP, &dev(number), |ns| path::clear(ns, MUTE)),
            (_, Some(value)) => {
                side.edit(table, APP, &dev(number), |record| {
                    path::set(record, path_of(change), value.clone())
                });
            }
            (_, None) => return None,
        }
        Some(Self { target, number, change, early: early && !target, told: false, table, value, session })
    }

    /// True when a later edit takes the place of this one.
    pub fn is_replaced_by(&self, later: &Self) -> bool {
        let same_record = (self.target, self.number, self.table) == (later.target, later.number, later.table);
        let same_path = path_of(self.change) == path_of(later.change);
        same_record && (same_path || matches!(later.change, Change::Delete(_)))
    }

    /// A later edit of the copy on the target: what was edited at the source is not to be found there any more.
    pub fn is_edited_further(&mut self, later: &Self) {
        let same = (self.number, self.table) == (later.number, later.table);
        self.early &= !(same && later.target && path_of(self.change) == path_of(later.change));
    }

    /// Notes when a command has named it: the device and what was changed of it.
    pub fn hear(&mut self, said: &str) {
        let words: &[&str] = match self.change {
            Change::Name => &["(name", "name)", ": name", ", name"],
            Change::Key => &["root_keys"],
            Change::Counter => &[COUNTER, "session"],
            Change::Mute(_) => &[MUTE, "muted-source", "unmuted"],
            Change::Delete(_) => {
                &["is gone", "came or went", "appeared or went", "has appeared", "partial-registration"]
            }
        };
        self.told |= said.contains(&dev(self.number)) && words.iter().any(|word| said.contains(word));
    }

    /// What is wrong: the edit is gone, and nobody was told.
    pub fn lost(&self, world: &World) -> Option<String> {
        if self.told {
            return None;
        }
        let here = side(world, self.target).record(self.table, APP, &dev(self.number));
        let there = side(world, !self.target).record(self.table, APP, &dev(self.number));
        let carried = there.as_ref().is_some_and(|record| self.holds(Some(record)));
        if !self.holds(here.as_ref()) && (matches!(self.change, Change::Delete(_)) || !carried) {
            return Some(format!("lost without a word: {self:?}"));
        }
        let copied = self.value.is_none() || there.is_none() || carried;
        (self.early && !copied).then(|| format!("not copied: {self:?}"))
    }

    /// Is the edit in this record?
    fn holds(&self, record: Option<&DynamicMessage>) -> bool {
        let Some(record) = record else { return matches!(self.change, Change::Delete(_)) };
        match self.change {
            Change::Delete(_) => false,
            Change::Mute(on) => path::wrapped_flag(record, MUTE) == on.then_some(false),
            Change::Counter => {
                // A join gives the device another session, with counters of its own.
                let other = path::bytes(record, SESSION) != self.session;
                let least = self.value.as_ref().and_then(Value::as_u32).unwrap_or(0);
                other || path::number(record, COUNTER) >= u64::from(least)
            }
            Change::Name | Change::Key => {
                path::get(record, path_of(self.change)).as_deref() == self.value.as_ref()
            }
        }
    }

    /// True when the edit itself breaks, or lets be broken, this promise to its device. What is edited at the source
    /// stays there in a rollback, and differs from what the target loses.
    pub fn excuses(&self, promise: Promise, came_back: bool) -> bool {
        match self.change {
            Change::Name => came_back && promise == Promise::S1,
            Change::Counter => promise == Promise::S4,
            Change::Key | Change::Mute(_) | Change::Delete(_) => true,
        }
    }

    /// True when the device may not be heard any more, by the will of whoever edited it.
    pub fn disables(&self) -> bool {
        self.change != Change::Name
    }
}

fn side(world: &World, target: bool) -> &Side {
    if target { &world.target } else { &world.source }
}

fn path_of(change: Change) -> &'static str {
    match change {
        Change::Name => "name",
        Change::Key => KEY,
        Change::Counter => COUNTER,
        Change::Mute(_) => MUTE,
        Change::Delete(_) => "",
    }
}
