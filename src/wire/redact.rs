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
/// Shorter texts are no keys, and would be found in ordinary words.
const SHORTEST: usize = 6;
/// Ends a text that was cut.
const CUT: char = '…';

/// The secrets of one call, in the forms in which text can hold them; longest first.
pub(super) struct Redactor(Vec<Zeroizing<String>>);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({})", self.0.len())
    }
}

impl Redactor {
    /// For the API key and every key that `request` holds.
    pub fn new(api_key: Option<&Secret>, request: &DynamicMessage) -> Self {
        let mut forms: Vec<_> =
            api_key.map(|key| Zeroizing::new(key.reveal().to_owned())).into_iter().collect();
        collect(request, false, &mut forms);
        forms.retain(|form| form.len() >= SHORTEST);
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Self(forms)
    }

    /// `text` without the secrets, also without the beginning of one at which it was cut.
    pub fn clean(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for form in &self.0 {
            out = out.replace(form.as_str(), REDACTED);
        }
        let Some(cut) = out.strip_suffix(CUT) else { return out };
        let begun = self.0.iter().filter_map(|form| {
            let starts = form.char_indices().map(|(at, c)| &form[..at + c.len_utf8()]);
            starts.filter(|s| s.len() >= SHORTEST && cut.ends_with(s)).map(str::len).max()
        });
        match begun.max() {
            Some(length) => format!("{}{REDACTED}{CUT}", &cut[..cut.len() - length]),
            None => out,
        }
    }
}

fn collect(message: &DynamicMessage, secret: bool, forms: &mut Vec<Zeroizing<String>>) {
    for (field, value) in message.fields() {
        let secret = secret || is_secret_path(field.name());
        match value {
            Value::List(list) => list.iter().for_each(|v| one(v, secret, forms)),
            Value::Map(map) => map.values().for_each(|v| one(v, secret, forms)),
            value => one(value, secret, forms),
        }
    }
}

fn one(value: &Value, secret: bool, forms: &mut Vec<Zeroizing<String>>) {
    match value {
        Value::Message(inner) => collect(inner, secret, forms),
        Value::String(text) if secret => forms.push(Zeroizing::new(text.clone())),
        Value::Bytes(bytes) if secret => forms.extend(
            [
                hex::encode(bytes),
                hex::encode_upper(bytes),
                BASE64_STANDARD.encode(bytes),
                BASE64_STANDARD_NO_PAD.encode(bytes),
                BASE64_URL_SAFE.encode(bytes),
                BASE64_URL_SAFE_NO_PAD.encode(bytes),
            ]
            .map(Zeroizing::new),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{map::path, proto};

    fn redactor() -> Redactor {
        let mut request = proto::message("SetEndDeviceRequest");
        let key = Value::Bytes(vec![0xA5; 16].into());
        path::set(&mut request, "end_device.root_keys.app_key.key", key);
        path::set(&mut request, "end_device.ids.device_id", Value::String("meter-1".into()));
        Redactor::new(Some(&Secret::new("NNSXS.ID.SECRET")), &request)
    }

    #[test]
    fn keys_go_and_names_stay() {
        let redactor = redactor();
        for form in
            [hex::encode([0xA5; 16]), hex::encode_upper([0xA5; 16]), BASE64_STANDARD.encode([0xA5; 16])]
        {
            assert_eq!(
                redactor.clean(&format!("bad key {form} of meter-1")),
                "bad key [redacted] of meter-1"
            );
        }
        assert_eq!(redactor.clean("token NNSXS.ID.SECRET!"), "token [redacted]!");
    }

    #[test]
    fn a_key_that_was_cut_goes_too() {
        let redactor = redactor();
        assert_eq!(redactor.clean("token NNSXS.ID.SEC…"), "token [redacted]…");
        assert_eq!(redactor.clean("an ordinary end…"), "an ordinary end…");
    }
}
