//! Takes secrets out of what a server says: one that repeats what it was sent must not get a key into a log.

use std::fmt;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use prost_reflect::{DynamicMessage, Value};
use zeroize::Zeroizing;

use crate::model::secret::{Secret, is_secret_path};

const REDACTED: &str = "[redacted]";
/// Stands for a text that holds a secret in a form that cannot be cut out.
const WITHHELD: &str = "[not shown: the server repeats a secret]";
/// Shorter texts are no keys, and would be found in ordinary words.
const SHORTEST: usize = 6;
/// How long a secret must be, and how much of it be seen in letters and digits, for a text to be withheld.
const SHORTEST_TRACE: usize = 8;
/// Ends a text that was cut.
const CUT: char = '…';

type Forms = Vec<Zeroizing<String>>;

/// The secrets of one call. Their forms are made only when a server has said something.
pub(super) struct Redactor<'a> {
    api_key: Option<&'a Secret>,
    request: &'a DynamicMessage,
}

impl fmt::Debug for Redactor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

impl<'a> Redactor<'a> {
    /// For the API key and every key that `request` holds.
    pub fn new(api_key: Option<&'a Secret>, request: &'a DynamicMessage) -> Self {
        Self { api_key, request }
    }

    /// `text` without the secrets, also without the beginning of one at which it was cut.
    pub fn clean(&self, text: &str) -> String {
        if text.len() < SHORTEST {
            return text.to_owned();
        }
        let mut secrets: Vec<Zeroizing<Vec<u8>>> =
            self.api_key.map(|key| Zeroizing::new(key.reveal().as_bytes().to_vec())).into_iter().collect();
        collect(self.request, false, &mut secrets);
        let out = cut_out(text, &secrets);
        if holds_trace(&out, &secrets) { WITHHELD.to_owned() } else { out }
    }
}

/// Cuts out what stands there as people and programs mostly write it.
fn cut_out(text: &str, secrets: &[Zeroizing<Vec<u8>>]) -> String {
    let mut forms: Forms = secrets.iter().flat_map(|secret| plain_forms(secret)).collect();
    forms.retain(|form| form.len() >= SHORTEST);
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let mut out = text.to_owned();
    for form in &forms {
        out = out.replace(form.as_str(), REDACTED);
    }
    let Some(cut) = out.strip_suffix(CUT) else { return out };
    let begun = forms.iter().filter_map(|form| {
        let starts = form.char_indices().map(|(at, c)| &form[..at + c.len_utf8()]);
        starts.filter(|s| s.len() >= SHORTEST && cut.ends_with(s)).map(str::len).max()
    });
    match begun.max() {
        Some(length) => format!("{}{REDACTED}{CUT}", &cut[..cut.len() - length]),
        None => out,
    }
}

/// True when a secret still shows in a form that has no clear ends: a part of something longer in base64, a list of
/// numbers, bytes with separators, backwards.
fn holds_trace(text: &str, secrets: &[Zeroizing<Vec<u8>>]) -> bool {
    let bare = bare(text);
    let is_cut = text.ends_with(CUT);
    // What is shorter is a payload, and its traces are found anywhere.
    let keys = secrets.iter().filter(|secret| secret.len() >= SHORTEST_TRACE);
    keys.flat_map(|secret| traces(secret)).any(|trace| {
        if trace.len() < SHORTEST_TRACE {
            return false;
        }
        let begins = |length: usize| bare.ends_with(&trace[..length]);
        bare.contains(trace.as_str()) || (is_cut && (SHORTEST_TRACE..trace.len()).any(begins))
    })
}

/// Letters and digits alone, in lower case: all ASCII.
fn bare(text: &str) -> Zeroizing<String> {
    let kept = text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    Zeroizing::new(kept.collect())
}

fn plain_forms(secret: &[u8]) -> Forms {
    let mut forms = vec![
        hex::encode(secret),
        hex::encode_upper(secret),
        BASE64_STANDARD.encode(secret),
        BASE64_STANDARD_NO_PAD.encode(secret),
        BASE64_URL_SAFE.encode(secret),
        BASE64_URL_SAFE_NO_PAD.encode(secret),
    ];
    forms.extend(std::str::from_utf8(secret).ok().map(str::to_owned));
    forms.into_iter().map(Zeroizing::new).collect()
}

/// The forms of a secret and of its reverse (LoRaWAN is little-endian on the air) as [`bare`] leaves them.
fn traces(secret: &[u8]) -> Forms {
    let reversed = Zeroizing::new(secret.iter().rev().copied().collect::<Vec<_>>());
    let mut traces = Forms::new();
    for bytes in [secret, &reversed] {
        let joined = |each: fn(&u8) -> String| Zeroizing::new(bytes.iter().map(each).collect::<String>());
        traces.push(Zeroizing::new(hex::encode(bytes)));
        traces.push(joined(|b| format!("0x{b:02x}")));
        traces.push(joined(|b| format!("0x{b:x}")));
        traces.push(joined(u8::to_string));
        traces.push(bare(&bytes.escape_ascii().to_string()));
        traces.extend(std::str::from_utf8(bytes).ok().map(bare));
        for shift in 0..3 {
            // Within something longer it begins at any byte of a group of three; what depends on its neighbours is left out.
            let shifted = Zeroizing::new([&[0; 2][..shift], bytes].concat());
            let (from, to) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
            for text in [BASE64_STANDARD_NO_PAD.encode(&*shifted), BASE64_URL_SAFE_NO_PAD.encode(&*shifted)] {
                traces.push(bare(&Zeroizing::new(text)[from..to]));
            }
        }
    }
    traces
}

fn collect(message: &DynamicMessage, secret: bool, out: &mut Vec<Zeroizing<Vec<u8>>>) {
    for (field, value) in message.fields() {
        let secret = secret || is_secret_path(field.name());
        match value {
            Value::List(list) => list.iter().for_each(|v| one(v, secret, out)),
            Value::Map(map) => map.values().for_each(|v| one(v, secret, out)),
            value => one(value, secret, out),
        }
    }
}

fn one(value: &Value, secret: bool, out: &mut Vec<Zeroizing<Vec<u8>>>) {
    match value {
        Value::Message(inner) => collect(inner, secret, out),
        Value::String(text) if secret => out.push(Zeroizing::new(text.as_bytes().to_vec())),
        Value::Bytes(bytes) if secret => out.push(Zeroizing::new(bytes.to_vec())),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{map::path, proto};

    const KEY: [u8; 16] = *b"\xA5\x01key\\\"\xFF\x00\n0123~!";

    fn cleaned(text: &str) -> String {
        let mut request = proto::message("SetEndDeviceRequest");
        path::set(&mut request, "end_device.root_keys.app_key.key", Value::Bytes(KEY.to_vec().into()));
        path::set(&mut request, "end_device.ids.device_id", Value::String("meter-1".into()));
        Redactor::new(Some(&Secret::new("NNSXS.ID.SECRET")), &request).clean(text)
    }

    #[test]
    fn keys_go_and_names_stay() {
        for form in [hex::encode(KEY), hex::encode_upper(KEY), BASE64_STANDARD.encode(KEY)] {
            assert_eq!(cleaned(&format!("bad key {form} of meter-1")), "bad key [redacted] of meter-1");
        }
        assert_eq!(cleaned("token NNSXS.ID.SECRET!"), "token [redacted]!");
    }

    #[test]
    fn a_key_that_was_cut_goes_too() {
        assert_eq!(cleaned("token NNSXS.ID.SEC…"), "token [redacted]…");
        assert_eq!(cleaned("an ordinary end…"), "an ordinary end…");
    }

    #[test]
    fn a_key_without_clear_ends_takes_the_words_with_it() {
        let backwards: Vec<u8> = KEY.iter().rev().copied().collect();
        let longer = [b"abc", &KEY[..], b"d"].concat();
        for form in [
            format!("{KEY:?}"),
            format!("{KEY:02X?}"),
            format!("{KEY:#x?}"),
            format!("\"{}\"", KEY.escape_ascii()),
            hex::encode(&backwards),
            format!("{backwards:?}"),
            BASE64_STANDARD.encode(&longer),
            BASE64_STANDARD.encode(&longer[1..]),
            BASE64_URL_SAFE.encode(&longer[2..]),
            format!("{}…", &BASE64_STANDARD.encode(&longer[1..])[..16]),
            "N N S X S - I D - S E C R E T".into(),
        ] {
            assert_eq!(cleaned(&format!("bad key {form}")), WITHHELD, "{form}");
        }
        let innocent =
            "rate limit of 20 accesses per minute exceeded for resource `end device:fleet.meter-1`";
        assert_eq!(cleaned(innocent), innocent);
    }
}
