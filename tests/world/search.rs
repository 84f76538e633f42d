//! Searching bytes for secrets, in every form in which software writes bytes.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use prost_reflect::bytes::Bytes;

/// Shorter ones would be found by chance.
pub const SHORTEST: usize = 8;

/// A secret and what it is. The name may be printed.
#[derive(Clone)]
pub struct Secret {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Secret {
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// Where a secret was found: its name, and the form.
pub type Found = BTreeSet<(String, &'static str)>;

/// The forms of many secrets, found in one pass.
pub struct Search {
    names: Vec<String>,
    /// For each pattern: which secret, and in which form.
    patterns: Vec<(usize, &'static str)>,
    automaton: AhoCorasick,
}

impl Search {
    pub fn new(secrets: &[Secret]) -> Self {
        let (mut patterns, mut texts) = (Vec::new(), Vec::new());
        for (index, secret) in secrets.iter().enumerate() {
            assert!(secret.bytes.len() >= SHORTEST, "{} is too short to be searched for", secret.name);
            for (form, text) in forms(&secret.bytes) {
                patterns.push((index, form));
                texts.push(text);
            }
        }
        let names = secrets.iter().map(|secret| secret.name.clone()).collect();
        Self { names, patterns, automaton: AhoCorasick::new(texts).expect("few enough") }
    }

    /// Every secret in `text` as it stands; in text for people also without white space (wrapped lines, pretty lists),
    /// and without anything but letters and digits (`04:02:94`, `[0x04, 0x02]`).
    pub fn find(&self, text: &[u8]) -> Found {
        let mut found = Found::new();
        self.look(text, &mut found);
        if std::str::from_utf8(text).is_ok() {
            let tight: Vec<_> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            let bare: Vec<_> = tight.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
            self.look(&tight, &mut found);
            self.look(&bare, &mut found);
        }
        found
    }

    fn look(&self, text: &[u8], found: &mut Found) {
        for hit in self.automaton.find_overlapping_iter(text) {
            let (index, form) = self.patterns[hit.pattern().as_usize()];
            found.insert((self.names[index].clone(), form));
        }
    }
}

/// What a secret can look like, by the name of the form.
pub fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let list =
        |each: fn(&u8) -> String, by: &str| bytes.iter().map(each).collect::<Vec<_>>().join(by).into_bytes();
    let reversed: Vec<_> = bytes.iter().rev().copied().collect();
    let debug = format!("{:?}", Bytes::copy_from_slice(bytes));
    let mut forms = vec![
        ("raw", bytes.to_vec()),
        ("hex", hex::encode(bytes).into_bytes()),
        ("HEX", hex::encode_upper(bytes).into_bytes()),
        ("0x list", list(|b| format!("0x{b:02x}"), "")),
        ("decimal list", list(u8::to_string, ",")),
        ("escaped", debug.trim_start_matches("b\"").trim_end_matches('"').as_bytes().to_vec()),
        ("reversed", reversed.clone()),
        ("reversed hex", hex::encode(&reversed).into_bytes()),
        ("reversed HEX", hex::encode_upper(&reversed).into_bytes()),
    ];
    base64(bytes, "base64", "base64url", &mut forms);
    base64(&reversed, "reversed base64", "reversed base64url", &mut forms);
    forms
}

/// Base64 of something longer that holds the secret: it begins at the first, second or third byte of a group. The
/// characters that depend on its neighbours are left out; padding is among them.
fn base64(bytes: &[u8], name: &'static str, url_name: &'static str, out: &mut Vec<(&'static str, Vec<u8>)>) {
    for shift in 0..3 {
        let shifted = [&vec![0; shift], bytes].concat();
        let (from, to) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
        let (plain, url) = (BASE64_STANDARD_NO_PAD.encode(&shifted), BASE64_URL_SAFE_NO_PAD.encode(&shifted));
        out.push((name, plain.as_bytes()[from..to].to_vec()));
        if plain != url {
            out.push((url_name, url.as_bytes()[from..to].to_vec()));
        }
    }
}
