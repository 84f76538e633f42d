//! The kinds of rules, one per kind of field (`FieldRules` in `proto/stackferry/wire.proto`).

use std::{
    collections::HashSet,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, ReflectMessage as _, Value};
use regex::Regex;

use super::{REQUIRED, sorted};
use crate::map::path;

static EXTENSION: LazyLock<Option<ExtensionDescriptor>> =
    LazyLock::new(|| crate::proto::pool().get_extension_by_name("stackferry.rules"));

/// The rules of one field, compiled.
#[derive(Debug)]
pub(super) enum Rules {
    Number(Number),
    Text(Text),
    Bytes(Bytes),
    Enumeration { defined_only: bool, one_of: Vec<i32>, none_of: Vec<i32> },
    Message { required: bool },
    List { min: Option<u64>, max: Option<u64>, unique: bool, items: Option<Box<Rules>> },
    Map { max: Option<u64>, keys: Option<Box<Rules>>, values: Option<Box<Rules>> },
    Timestamp { required: bool, future: bool, past: bool },
}

#[derive(Debug)]
pub(super) struct Number {
    /// Lower bound, and whether it is allowed itself.
    low: Option<(f64, bool)>,
    /// Upper bound, and whether it is allowed itself.
    high: Option<(f64, bool)>,
    one_of: Vec<f64>,
    none_of: Vec<f64>,
}

#[derive(Debug)]
pub(super) struct Text {
    min: Option<u64>,
    max: Option<u64>,
    pattern: Option<Regex>,
    one_of: Vec<String>,
    uri: bool,
    uri_ref: bool,
    ip: bool,
    ignore_empty: bool,
}

#[derive(Debug)]
pub(super) struct Bytes {
    len: Option<u64>,
    min: Option<u64>,
    max: Option<u64>,
    ignore_empty: bool,
}

/// What is added to the field's name (`[key]`, `[index]`), and the reason.
pub(super) type Broken = Option<(String, String)>;

fn whole(reason: Option<String>) -> Broken {
    reason.map(|reason| (String::new(), reason))
}

impl Rules {
    /// The rules that `proto/` gives a field.
    pub(super) fn of(field: &FieldDescriptor) -> Option<Self> {
        let extension = EXTENSION.as_ref()?;
        let options = field.options();
        if !options.has_extension(extension) {
            return None;
        }
        Self::read(options.get_extension(extension).as_message()?)
    }

    fn read(rules: &DynamicMessage) -> Option<Self> {
        let kind = rules.descriptor().oneofs().next()?;
        let field = kind.fields().find(|f| rules.has_field(f))?;
        let value = rules.get_field(&field);
        let inner = value.as_message()?;
        let count = |name: &str| path::get(inner, name).and_then(|v| v.as_u64());
        let nested = |name: &str| path::child(inner, name).and_then(|r| Self::read(&r)).map(Box::new);
        let enums = |name: &str| list(inner, name).iter().filter_map(Value::as_i32).collect();
        Some(match field.name() {
            "string" => Self::Text(Text {
                min: count("min_len"),
                max: count("max_len"),
                // Patterns are those of this program; one that does not compile would be caught by the tests.
                pattern: path::get(inner, "pattern").and_then(|p| Regex::new(p.as_str()?).ok()),
                one_of: list(inner, "in").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
                uri: path::flag(inner, "uri"),
                uri_ref: path::flag(inner, "uri_ref"),
                ip: path::flag(inner, "ip"),
                ignore_empty: path::flag(inner, "ignore_empty"),
            }),
            "bytes" => Self::Bytes(Bytes {
                len: count("len"),
                min: count("min_len"),
                max: count("max_len"),
                ignore_empty: path::flag(inner, "ignore_empty"),
            }),
            "enum" => Self::Enumeration {
                defined_only: path::flag(inner, "defined_only"),
                one_of: enums("in"),
                none_of: enums("not_in"),
            },
            "message" | "duration" => Self::Message { required: path::flag(inner, "required") },
            "repeated" => Self::List {
                min: count("min_items"),
                max: count("max_items"),
                unique: path::flag(inner, "unique"),
                items: nested("items"),
            },
            "map" => Self::Map { max: count("max_pairs"), keys: nested("keys"), values: nested("values") },
            "timestamp" => Self::Timestamp {
                required: path::flag(inner, "required"),
                future: path::flag(inner, "gt_now"),
                past: path::flag(inner, "lt_now"),
            },
            _ => Self::Number(Number::read(inner)),
        })
    }

    /// What is wrong with a field that is set.
    pub(super) fn broken(&self, value: &Value, field: &FieldDescriptor) -> Broken {
        match (self, value) {
            (Self::Message { .. }, _) => None,
            (Self::Timestamp { future, past, .. }, Value::Message(time)) => {
                whole(relative(time, *future, *past))
            }
            (Self::List { min, max, unique, items }, Value::List(list)) => {
                whole(item_count(list.len() as u64, *min, *max))
                    .or_else(|| unique.then(|| duplicate(list)).flatten())
                    .or_else(|| {
                        let items = items.as_ref()?;
                        let each = list.iter().enumerate();
                        each.into_iter().find_map(|(n, v)| Some((format!("[{n}]"), items.scalar(v, field)?)))
                    })
            }
            (Self::Map { max, keys, values }, Value::Map(entries)) => {
                let too_many = max.filter(|max| entries.len() as u64 > *max);
                whole(too_many.map(|max| format!("value must contain no more than {max} pair(s)"))).or_else(
                    || {
                        sorted(entries).into_iter().find_map(|(key, value)| {
                            let name = Value::String(key.clone());
                            let of_key = keys.as_ref().and_then(|rules| rules.scalar(&name, field));
                            let reason = of_key
                                .or_else(|| values.as_ref().and_then(|rules| rules.scalar(value, field)))?;
                            Some((format!("[{key}]"), reason))
                        })
                    },
                )
            }
            // A rule on a wrapper message (`UInt32Value`) is about the number inside.
            (_, Value::Message(wrapper)) => {
                whole(wrapper.get_field_by_name("value").and_then(|inner| self.scalar(&inner, field)))
            }
            _ => whole(self.scalar(value, field)),
        }
    }

    /// What is wrong with a field that is not set: required messages, and scalars whose default breaks their rule.
    pub(super) fn broken_when_absent(&self, default: &Value, field: &FieldDescriptor) -> Broken {
        match self {
            Self::Message { required } | Self::Timestamp { required, .. } => {
                whole(required.then(|| REQUIRED.to_owned()))
            }
            // Wrappers that are absent, and members of a `oneof`, follow no rule.
            _ if matches!(field.kind(), Kind::Message(_)) && !field.is_list() && !field.is_map() => None,
            _ => self.broken(default, field),
        }
    }

    fn scalar(&self, value: &Value, field: &FieldDescriptor) -> Option<String> {
        match (self, value) {
            (Self::Number(rule), _) => rule.broken(number(value)?),
            (Self::Text(rule), Value::String(text)) => rule.broken(text),
            (Self::Bytes(rule), Value::Bytes(bytes)) => rule.broken(bytes.len() as u64),
            (Self::Enumeration { defined_only, one_of, none_of }, Value::EnumNumber(n)) => {
                let text = |list: &[i32]| list.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
                let known = |n| field.kind().as_enum().is_some_and(|e| e.get_value(n).is_some());
                if !one_of.is_empty() && !one_of.contains(n) {
                    Some(format!("value must be in list [{}]", text(one_of)))
                } else if none_of.contains(n) {
                    Some(format!("value must not be in list [{}]", text(none_of)))
                } else if *defined_only && !known(*n) {
                    Some("value must be one of the defined enum values".to_owned())
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

impl Number {
    fn read(rules: &DynamicMessage) -> Self {
        let bound = |name: &str| path::get(rules, name).and_then(|v| v.as_f64());
        let numbers = |name: &str| list(rules, name).iter().filter_map(Value::as_f64).collect();
        let either = |open: &str, closed: &str| {
            bound(open).map(|b| (b, false)).or_else(|| bound(closed).map(|b| (b, true)))
        };
        Self {
            low: either("gt", "gte"),
            high: either("lt", "lte"),
            one_of: numbers("in"),
            none_of: numbers("not_in"),
        }
    }

    fn broken(&self, n: f64) -> Option<String> {
        let text = |list: &[f64]| list.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
        if !self.one_of.is_empty() && !self.one_of.contains(&n) {
            return Some(format!("value must be in list [{}]", text(&self.one_of)));
        }
        if self.none_of.contains(&n) {
            return Some(format!("value must not be in list [{}]", text(&self.none_of)));
        }
        let above = |(low, closed): (f64, bool)| if closed { n >= low } else { n > low };
        let under = |(high, closed): (f64, bool)| if closed { n <= high } else { n < high };
        let open = |closed: bool| if closed { ("[", "]") } else { ("(", ")") };
        match (self.low, self.high) {
            (Some(low), Some(high)) if high.0 >= low.0 => (!(above(low) && under(high))).then(|| {
                format!("value must be inside range {}{}, {}{}", open(low.1).0, low.0, high.0, open(high.1).1)
            }),
            // The bounds crossed over: what lies between them is refused.
            (Some(low), Some(high)) => (!above(low) && !under(high)).then(|| {
                format!(
                    "value must be outside range {}{}, {}{}",
                    open(!high.1).0,
                    high.0,
                    low.0,
                    open(!low.1).1
                )
            }),
            (Some(low), None) => (!above(low)).then(|| {
                format!("value must be greater than {}{}", if low.1 { "or equal to " } else { "" }, low.0)
            }),
            (None, Some(high)) => (!under(high)).then(|| {
                format!("value must be less than {}{}", if high.1 { "or equal to " } else { "" }, high.0)
            }),
            (None, None) => None,
        }
    }
}

impl Text {
    fn broken(&self, text: &str) -> Option<String> {
        if self.ignore_empty && text.is_empty() {
            return None;
        }
        if !self.one_of.is_empty() && !self.one_of.iter().any(|allowed| allowed == text) {
            return Some(format!("value must be in list [{}]", self.one_of.join(" ")));
        }
        length(text.chars().count() as u64, "runes", None, self.min, self.max)
            .or_else(|| {
                self.ip
                    .then(|| text.parse::<std::net::IpAddr>().is_err())?
                    .then(|| "value must be a valid IP address".to_owned())
            })
            .or_else(|| if self.uri || self.uri_ref { address(text, self.uri) } else { None })
            .or_else(|| {
                let pattern = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text))?;
                let quoted = pattern.as_str().replace('\\', "\\\\").replace('"', "\\\"");
                Some(format!("value does not match regex pattern \"{quoted}\""))
            })
    }
}

impl Bytes {
    fn broken(&self, len: u64) -> Option<String> {
        if self.ignore_empty && len == 0 {
            return None;
        }
        length(len, "bytes", self.len, self.min, self.max)
    }
}

fn length(n: u64, unit: &str, len: Option<u64>, min: Option<u64>, max: Option<u64>) -> Option<String> {
    match (len, min, max) {
        (Some(len), ..) => (n != len).then(|| format!("value length must be {len} {unit}")),
        (None, Some(min), Some(max)) => (n < min || n > max)
            .then(|| format!("value length must be between {min} and {max} {unit}, inclusive")),
        (None, Some(min), None) => (n < min).then(|| format!("value length must be at least {min} {unit}")),
        (None, None, Some(max)) => (n > max).then(|| format!("value length must be at most {max} {unit}")),
        (None, None, None) => None,
    }
}

fn item_count(n: u64, min: Option<u64>, max: Option<u64>) -> Option<String> {
    match (min, max) {
        (Some(min), Some(max)) => (n < min || n > max)
            .then(|| format!("value must contain between {min} and {max} items, inclusive")),
        (Some(min), None) => (n < min).then(|| format!("value must contain at least {min} item(s)")),
        (None, Some(max)) => (n > max).then(|| format!("value must contain no more than {max} item(s)")),
        (None, None) => None,
    }
}

fn duplicate(list: &[Value]) -> Broken {
    let mut seen = HashSet::new();
    let again = list.iter().position(|value| !seen.insert(format!("{value:?}")))?;
    Some((format!("[{again}]"), "repeated value must contain unique items".to_owned()))
}

/// Go's `url.Parse` and `IsAbs`, as far as texts that people write go.
fn address(text: &str, absolute: bool) -> Option<String> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let after_scheme = scheme.map_or(text, |scheme| &text[scheme.len() + 1..]);
    let host = after_scheme.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    let colon_first = scheme.is_none() && text.split(['/', '?', '#']).next().is_some_and(|s| s.contains(':'));
    let bad = text.chars().any(|c| c.is_ascii_control())
        || host.is_some_and(|host| host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '}', '|']))
        || colon_first
        || bad_escape(text.split(['?', '#']).next().unwrap_or(text));
    match scheme {
        _ if bad => Some("value must be a valid URI".to_owned()),
        None if absolute => Some("value must be absolute".to_owned()),
        _ => None,
    }
}

fn bad_escape(text: &str) -> bool {
    text.match_indices('%').any(|(at, _)| {
        !text.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

fn relative(time: &DynamicMessage, future: bool, past: bool) -> Option<String> {
    let part = |name: &str| {
        time.get_field_by_name(name)
            .and_then(|v| v.as_i64().or(v.as_i32().map(i64::from)))
            .unwrap_or_default()
    };
    let time = i128::from(part("seconds")) * 1_000_000_000 + i128::from(part("nanos"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
    if future && time <= now {
        Some("value must be greater than now".to_owned())
    } else if past && time >= now {
        Some("value must be less than now".to_owned())
    } else {
        None
    }
}

fn list(message: &DynamicMessage, name: &str) -> Vec<Value> {
    path::get(message, name).and_then(|v| v.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
}

fn number(value: &Value) -> Option<f64> {
    Some(match *value {
        Value::I32(n) => f64::from(n),
        Value::U32(n) => f64::from(n),
        Value::I64(n) => n as f64,
        Value::U64(n) => n as f64,
        Value::F32(n) => f64::from(n),
        Value::F64(n) => n,
        _ => return None,
    })
}
