//! Findings hold no key, and only losses that can be allowed are lowered.

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE};
use proptest::prelude::*;

use super::*;
use crate::{model::secret::is_secret_path, plan::finding::Severity};

/// Every form in which the bytes and texts of a device's secrets could stand in a text.
fn forms(found: &Found) -> Vec<String> {
    let mut forms = Vec::new();
    for (_, record) in found.records.present() {
        // The label names a key encryption key; it is shown on purpose.
        let secret = |p: &&String| is_secret_path(p) && !p.ends_with(".kek_label");
        for at in path::stored(&record.0).iter().filter(secret) {
            let value = path::get(&record.0, at).expect("stored");
            let raw = match (value.as_bytes(), value.as_str()) {
                (Some(bytes), _) => bytes.to_vec(),
                (_, Some(text)) => text.as_bytes().to_vec(),
                _ => continue,
            };
            if raw.len() < 8 {
                continue;
            }
            forms.extend([
                hex::encode(&raw),
                hex::encode_upper(&raw),
                BASE64_STANDARD.encode(&raw),
                BASE64_URL_SAFE.encode(&raw),
            ]);
            forms.push(String::from_utf8_lossy(&raw).into_owned());
            forms.push(format!("{raw:?}"));
        }
    }
    forms
}

fn leaks(found: &Found, shown: &str) -> bool {
    forms(found).iter().any(|form| shown.contains(form.as_str()))
}

fn shown(done: &Transformed) -> String {
    let findings = done.findings.iter().map(|f| format!("{f} {} {f:?}\n", f.fix));
    findings.collect::<String>() + &format!("{done:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn no_finding_holds_key_material(seed: u64, rough: bool, keep: bool) {
        let mut found = generated(seed);
        if rough {
            roughen(&mut found, seed);
        }
        let done = transform::device(&found, &foreign(), &wishes(if keep { SessionMode::Keep } else { SessionMode::Drop }));
        prop_assert!(!leaks(&found, &shown(&done)));
        let debugged = format!("{:?}", found);
        prop_assert!(!leaks(&found, &debugged));
    }

    #[test]
    fn allowing_a_loss_lowers_that_one_and_nothing_else(seed: u64, number in 0..Kind::ALL.len()) {
        let mut found = generated(seed);
        roughen(&mut found, seed);
        fill(is(&mut found), "picture", seed);
        let allowed = Kind::ALL[number];
        let strict = transform(&found, SessionMode::Keep);
        let mut wishes = wishes(SessionMode::Keep);
        wishes.allowed = vec![allowed];
        let lowered = transform::device(&found, &facts(), &wishes);
        prop_assert_eq!(strict.findings.len(), lowered.findings.len());
        for (before, after) in strict.findings.iter().zip(&lowered.findings) {
            prop_assert_eq!(before.kind, after.kind);
            let can = before.kind == allowed && !allowed.loss().is_empty() && before.blocks();
            prop_assert_eq!(after.severity, if can { Severity::Warning } else { before.severity }, "{}", after);
        }
    }
}

#[test]
fn a_leak_on_purpose_is_caught() {
    let found = generated(0);
    let key = path::bytes(&found.records.js.as_ref().expect("JS").0, "root_keys.app_key.key");
    assert_eq!(key.len(), 16);
    for text in [hex::encode_upper(&key), BASE64_STANDARD.encode(&key)] {
        let canary = Finding::new(Kind::Replaced, format!("the key is {text}"));
        assert!(leaks(&found, &canary.to_string()));
    }
}

#[test]
fn what_can_be_allowed_blocks_and_says_what_is_lost() {
    for kind in Kind::ALL.iter().copied().filter(|k| !k.loss().is_empty()) {
        assert!(kind.severity() >= Severity::Wait, "{kind}");
        assert_eq!(Kind::allowable(kind.name()), Some(kind));
        assert!(!Finding::new(kind, "").allow(&[kind]).blocks());
    }
    for kind in Kind::ALL.iter().copied().filter(|k| k.loss().is_empty()) {
        let finding = Finding::new(kind, "");
        assert_eq!(finding.clone().allow(Kind::ALL), finding, "{kind}");
    }
}
