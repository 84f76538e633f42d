//! Devices by their EUIs: the unique index of each registry.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use prost_reflect::DynamicMessage;

use super::lock;
use crate::{
    map::path,
    model::ids::Eui64,
    rehearsal::store::{Store, Table},
};

/// JoinEUI and DevEUI in a table.
type Euis = (Table, Eui64, Eui64);

/// Keys of the devices with two EUIs, kept up to date by a watcher of the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Index(Arc<Mutex<HashMap<Euis, BTreeSet<String>>>>);

impl Index {
    /// The index of a store, from now on.
    pub fn of(store: &mut Store) -> Self {
        let index = Self::default();
        for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
            for (key, device) in store.iter(table) {
                index.add(table, key, Some(device));
            }
        }
        let watching = index.clone();
        store.watch(move |tables, change| {
            if let Some(euis) = euis(change.table, change.before) {
                let mut entries = lock(&watching.0);
                if let Some(keys) = entries.get_mut(&euis) {
                    keys.remove(change.key);
                    if keys.is_empty() {
                        entries.remove(&euis);
                    }
                }
            }
            let now = tables.get(&change.table).and_then(|entries| entries.get(change.key));
            watching.add(change.table, change.key, now.map(Arc::as_ref));
        });
        index
    }

    fn add(&self, table: Table, key: &str, device: Option<&DynamicMessage>) {
        if let Some(euis) = euis(table, device) {
            lock(&self.0).entry(euis).or_default().insert(key.to_owned());
        }
    }

    /// The key of the first device with these EUIs.
    pub fn find(&self, table: Table, join_eui: Eui64, dev_eui: Eui64) -> Option<String> {
        lock(&self.0).get(&(table, join_eui, dev_eui))?.first().cloned()
    }
}

fn euis(table: Table, device: Option<&DynamicMessage>) -> Option<Euis> {
    if !matches!(table, Table::Is | Table::Js | Table::As | Table::Ns) {
        return None;
    }
    let eui = |at: &str| Eui64::from_bytes(&path::bytes(device?, at));
    Some((table, eui("ids.join_eui")?, eui("ids.dev_eui")?))
}

#[cfg(test)]
mod tests {
    use prost_reflect::Value;

    use super::*;
    use crate::proto;

    #[test]
    fn the_index_follows_the_store() {
        let eui = |n: u8| Eui64([0, 0, 0, 0, 0, 0, 0, n]);
        let device = |join: u8, dev: u8| {
            let mut device = proto::message("EndDevice");
            path::set(&mut device, "ids.join_eui", Value::Bytes(eui(join).0.to_vec().into()));
            path::set(&mut device, "ids.dev_eui", Value::Bytes(eui(dev).0.to_vec().into()));
            device
        };
        let mut store = Store::in_memory();
        store.put(Table::Ns, "meters.before", device(1, 1)).expect("memory");
        let index = Index::of(&mut store);
        assert_eq!(index.find(Table::Ns, eui(1), eui(1)).as_deref(), Some("meters.before"));
        store.put(Table::Ns, "meters.after", device(1, 2)).expect("memory");
        store.put(Table::Ns, "meters.before", device(1, 3)).expect("memory");
        assert_eq!(index.find(Table::Ns, eui(1), eui(1)), None);
        assert_eq!(index.find(Table::Ns, eui(1), eui(3)).as_deref(), Some("meters.before"));
        store.remove(Table::Ns, "meters.after").expect("memory");
        assert_eq!(index.find(Table::Ns, eui(1), eui(2)), None);
        assert_eq!(index.find(Table::Js, eui(1), eui(3)), None);
    }
}
