//! Searching bytes for secrets, in every form in which software writes bytes.

use std::collections::{BTreeSet, HashMap};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use prost_reflect::bytes::Bytes;

/// Shorter ones would be found by chance.
const SHORTEST: usize = 8;
/// How many bytes of a pattern the index looks at.
const HEAD: usize = 6;

/// A secret and what it is. The name may be printed.
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
    pub patterns: Vec<(String, &'static str, Vec<u8>)>,
    by_head: HashMap<[u8; HEAD], Vec<usize>>,
    /// Which first two bytes any pattern has: most positions end here.
    starts: Vec<bool>,
}

impl Search {
    pub fn new(secrets: &[Secret]) -> Self {
        let mut search = Self { patterns: Vec::new(), by_head: HashMap::new(), starts: vec![false; 1 << 16] };
        for secret in secrets {
            assert!(secret.bytes.len() >= SHORTEST, "{} is too short to be searched for", secret.name);
            for (form, pattern) in forms(&secret.bytes) {
                let head = *pattern.first_chunk::<HEAD>().expect("long enough");
                search.starts[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
                search.by_head.entry(head).or_default().push(search.patterns.len());
                search.patterns.push((secret.name.clone(), form, pattern));
            }
        }
        search
    }

    /// Every secret in `text`: as it stands, without white space (wrapped lines, pretty lists), and without anything
    /// but letters and digits (`04:02:94`, `[0x04, 0x02]`).
    pub fn find(&self, text: &[u8]) -> Found {
        let tight: Vec<_> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        let bare: Vec<_> = text.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        let mut found = Found::new();
        for view in [text, &tight, &bare] {
            for (at, head) in view.windows(HEAD).enumerate() {
                if !self.starts[usize::from(u16::from_be_bytes([head[0], head[1]]))] {
                    continue;
                }
                let Some(here) = self.by_head.get(head) else { continue };
                for (name, form, pattern) in here.iter().map(|i| &self.patterns[*i]) {
                    if view[at..].starts_with(pattern) {
                        found.insert((name.clone(), form));
                    }
                }
            }
        }
        found
    }

    #[track_caller]
    pub fn expect_none(&self, place: &str, text: &[u8]) {
        let found = self.find(text);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }
}

fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let list =
        |each: fn(&u8) -> String, by: &str| bytes.iter().map(each).collect::<Vec<_>>().join(by).into_bytes();
    let debug = format!("{:?}", Bytes::copy_from_slice(bytes));
    let mut forms = vec![
        ("raw", bytes.to_vec()),
        ("hex", hex::encode(bytes).into_bytes()),
        ("HEX", hex::encode_upper(bytes).into_bytes()),
        ("0x list", list(|b| format!("0x{b:02x}"), "")),
        ("decimal list", list(u8::to_string, ",")),
        ("escaped", debug.trim_start_matches("b\"").trim_end_matches('"').as_bytes().to_vec()),
    ];
    // Base64 of something longer that holds the secret: it begins at the first, second or third byte of a group. The
    // characters that depend on its neighbours are left out; padding is among them.
    for shift in 0..3 {
        let shifted = [&vec![0; shift], bytes].concat();
        let (from, to) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
        let (plain, url) = (BASE64_STANDARD_NO_PAD.encode(&shifted), BASE64_URL_SAFE_NO_PAD.encode(&shifted));
        forms.push(("base64", plain.as_bytes()[from..to].to_vec()));
        if plain != url {
            forms.push(("base64url", url.as_bytes()[from..to].to_vec()));
        }
    }
    forms
}

#[test]
fn the_search_finds_a_canary_in_every_form() {
    let canary: Vec<u8> = (0_u8..16).map(|n| if n < 4 { 0xFF } else { n * 13 }).collect();
    let search = Search::new(&[Secret::new("canary", canary.clone())]);
    let finds = |text: &[u8]| search.find(text).into_iter().map(|(_, form)| form).collect::<Vec<_>>();
    let around = |text: &str| [b"\x00before ", text.as_bytes(), b" after\xFF"].concat();
    assert_eq!(finds(b"nothing at all"), [""; 0]);
    assert_eq!(finds(&[b"x", &canary[..], b"y"].concat()), ["raw"]);
    assert_eq!(finds(&canary[..15]), [""; 0], "a part is not the whole");
    let hex = hex::encode(&canary);
    assert_eq!(finds(&around(&hex)), ["hex"]);
    assert_eq!(finds(&around(&hex.to_uppercase())), ["HEX"]);
    assert_eq!(finds(&around(&format!("{}\n  {}", &hex[..20], &hex[20..]))), ["hex"], "wrapped");
    let spaced = |by: &str| canary.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(by);
    assert_eq!(finds(&around(&spaced(":"))), ["HEX"]);
    assert_eq!(finds(&around(&format!("{canary:?}"))), ["decimal list"]);
    assert_eq!(finds(&around(&format!("{canary:#?}"))), ["decimal list"]);
    assert_eq!(finds(&around(&format!("{canary:#04x?}"))), ["0x list"]);
    assert_eq!(finds(&around(&format!("{:?}", Bytes::from(canary.clone())))), ["escaped"]);
    for before in 0..7 {
        let longer = [&vec![b'#'; before], &canary[..], &vec![b'!'; 7 - before]].concat();
        assert_eq!(finds(&around(&BASE64_STANDARD.encode(&longer))), ["base64"], "{before}");
        assert_eq!(finds(&around(&BASE64_URL_SAFE_NO_PAD.encode(&longer))), ["base64url"], "{before}");
    }
}
