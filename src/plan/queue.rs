//! What waits in the downlink queue of a session, in words: what somebody needs to know who queues it again by hand. Payloads
//! are the application's own, and are not among them.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, Value};

use crate::map::path;

/// How many downlinks wait in these queues, on which FPorts, and how many of them are confirmed, for gateways of the source or
/// for a time.
pub fn words(message: &DynamicMessage, queues: &[&str]) -> String {
    let items: Vec<_> = queues.iter().flat_map(|at| items(message, at)).collect();
    let mut ports: BTreeMap<u64, usize> = BTreeMap::new();
    for item in &items {
        *ports.entry(path::number(item, "f_port")).or_default() += 1;
    }
    let ports: Vec<_> = ports
        .into_iter()
        .map(
            |(port, count)| {
                if count > 1 { format!("{count} on FPort {port}") } else { format!("FPort {port}") }
            },
        )
        .collect();
    let count = |which: &dyn Fn(&DynamicMessage) -> bool| items.iter().filter(|item| which(item)).count();
    let special = [
        (count(&|item| path::flag(item, "confirmed")), "confirmed"),
        (count(&|item| path::has(item, "class_b_c.gateways")), "for gateways of the source"),
        (count(&|item| path::has(item, "class_b_c.absolute_time")), "for a given time"),
    ];
    let special: Vec<_> =
        special.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("; {n} {what}")).collect();
    let wait = if items.len() == 1 { "1 downlink waits" } else { &format!("{} downlinks wait", items.len()) };
    format!("{wait} in the source's queue ({}{})", ports.join(", "), special.concat())
}

fn items(message: &DynamicMessage, at: &str) -> Vec<DynamicMessage> {
    let queue = path::get(message, at);
    let queue = queue.as_ref().and_then(|queue| queue.as_list()).unwrap_or_default();
    queue.iter().filter_map(Value::as_message).cloned().collect()
}
