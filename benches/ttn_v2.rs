//! How long a device of V2 takes at its five calls a second: the built binary in its own process, V2 and The Things Stack in
//! this one.
//!
//! `cargo bench --bench ttn_v2`: one line of JSON for each fleet. `floor` is what its clears alone take at that rate.
// The results go to standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{process::Stdio, time::Instant};

use stackferry::rehearsal::{V2Settings, store::Table};

#[path = "../tests/world/mod.rs"]
#[allow(dead_code)]
mod world;

use world::v2::{PLAIN, V2World};

/// Calls a second that V2 takes.
const RATE: f64 = 5.0;

fn main() {
    for devices in [48, 200] {
        let settings = V2Settings { rate_limit: Some(5), ..V2Settings::default() };
        let world = V2World::plain_with(settings, devices);
        let config = world.config(PLAIN);
        // The rate that is built in.
        let text = std::fs::read_to_string(&config).expect("ours").replace("source = \"100000/s\"", "");
        std::fs::write(&config, text).expect("ours");
        let before = world.calls().len();
        let begun = Instant::now();
        let done = world.command("run").arg("--yes").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let seconds = begun.elapsed().as_secs_f64();
        assert!(done.expect("it starts").success(), "the run failed");
        assert_eq!(world.target_keys(Table::Ns).len(), devices);
        let calls = world.calls().len() - before;
        println!(
            "{}",
            serde_json::json!({
                "bench": "ttn-v2, no session",
                "devices": devices,
                "seconds": (seconds * 100.0).round() / 100.0,
                "seconds_per_device": (seconds / devices as f64 * 1000.0).round() / 1000.0,
                "calls": calls,
                "calls_per_device": (calls as f64 / devices as f64 * 100.0).round() / 100.0,
                "floor": devices as f64 / RATE,
            })
        );
    }
}
