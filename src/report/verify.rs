//! What `verify` found.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    plan::devices,
    terminal::style::{BAD, GOOD, paint},
};
use crate::engine::{belongings::VerifiedItem, verify::All};

/// Counts, then every device that differs.
pub fn text(found: &All) -> String {
    let All { devices: all, around, gateways, failed } = found;
    let mut out = String::new();
    let different: Vec<_> = all.iter().filter(|v| !v.differences.is_empty()).collect();
    let lives = all.iter().filter(|v| v.lives).count();
    let _ = writeln!(
        out,
        "  {} {} on the target as written, {lives} of them seen there since",
        paint(GOOD, "="),
        devices(all.len() - different.len())
    );
    for device in different {
        for (component, paths) in &device.differences {
            let _ = writeln!(
                out,
                "  {} {} ({} on the target): {component}: {}",
                paint(BAD, "x"),
                device.device,
                device.target_id,
                paths.join(", ")
            );
        }
    }
    if !around.is_empty() {
        let different = around.iter().filter(|v| !v.differences.is_empty()).count();
        let _ = writeln!(
            out,
            "  {} around the devices: {} as written",
            paint(GOOD, "="),
            around.len() - different
        );
    }
    for VerifiedItem { app, item, differences } in around.iter().filter(|v| !v.differences.is_empty()) {
        let _ = writeln!(out, "  {} {app}: {item}: {}", paint(BAD, "x"), differences.join(", "));
    }
    if !gateways.is_empty() {
        let as_written = gateways.iter().filter(|v| v.differences.is_empty()).count();
        let _ = writeln!(out, "  {} gateways: {as_written} as written", paint(GOOD, "="));
    }
    for gateway in gateways.iter().filter(|v| !v.differences.is_empty()) {
        let _ =
            writeln!(out, "  {} gateway {}: {}", paint(BAD, "x"), gateway.id, gateway.differences.join(", "));
    }
    super::plan::failed(&mut out, failed);
    out
}

/// The same for programs.
pub fn json(found: &All) -> Value {
    let All { devices: all, around, gateways, failed } = found;
    let gateways: Vec<_> =
        gateways.iter().map(|v| json!({ "gateway": v.id, "differences": v.differences })).collect();
    let belongings: Vec<_> = around
        .iter()
        .map(|v| {
            json!({
                "application": v.app.as_str(),
                "kind": v.item.sort,
                "device": v.item.device,
                "id": v.item.id,
                "differences": v.differences,
            })
        })
        .collect();
    let devices: Vec<_> = all
        .iter()
        .map(|v| {
            let differences: Vec<_> =
                v.differences.iter().map(|(c, paths)| json!({ "component": c, "paths": paths })).collect();
            json!({
                "application": v.device.app.as_str(),
                "device": v.device.device.as_str(),
                "target_device": v.target_id,
                "seen": v.lives,
                "differences": differences,
            })
        })
        .collect();
    json!({
        "devices": devices,
        "belongings": belongings,
        "gateways": gateways,
        "applications_failed": super::json::failed(failed),
    })
}
