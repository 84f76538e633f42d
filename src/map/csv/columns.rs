//! The columns, what they take, and where in an end device it goes.

use prost_reflect::{DynamicMessage, Kind, Value};

use crate::map::{json, path};

/// A column that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// As the header names it.
    pub name: &'static str,
    /// Where its value goes.
    pub path: &'static str,
    form: Form,
}

/// What a column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Any text.
    Text,
    /// So many bytes, in hexadecimal.
    Bytes(usize),
    /// A number in hexadecimal.
    Hex,
    /// A number.
    Number,
    /// True or false.
    Flag,
    /// The name of a value of an enum, in any of its forms, or its number.
    Name,
}

const fn column(name: &'static str, path: &'static str, form: Form) -> Column {
    Column { name, path, form }
}

/// Those of the CSV File Reference, those that the reader of 3.32.1 takes besides (`vendor_id`, `vendor_profile_id`), and
/// the other two keys of a LoRaWAN 1.1 session.
const COLUMNS: &[Column] = &[
    column("id", "ids.device_id", Form::Text),
    column("dev_eui", "ids.dev_eui", Form::Bytes(8)),
    column("join_eui", "ids.join_eui", Form::Bytes(8)),
    column("app_eui", "ids.join_eui", Form::Bytes(8)),
    column("name", "name", Form::Text),
    column("description", "description", Form::Text),
    column("lorawan_version", "lorawan_version", Form::Name),
    column("lorawan_phy_version", "lorawan_phy_version", Form::Name),
    column("frequency_plan_id", "frequency_plan_id", Form::Text),
    column("brand_id", "version_ids.brand_id", Form::Text),
    column("model_id", "version_ids.model_id", Form::Text),
    column("hardware_version", "version_ids.hardware_version", Form::Text),
    column("firmware_version", "version_ids.firmware_version", Form::Text),
    column("band_id", "version_ids.band_id", Form::Text),
    column("vendor_id", "lora_alliance_profile_ids.vendor_id", Form::Hex),
    column("vendor_profile_id", "lora_alliance_profile_ids.vendor_profile_id", Form::Hex),
    column("supports_class_c", "supports_class_c", Form::Flag),
    column("app_key", "root_keys.app_key.key", Form::Bytes(16)),
    column("nwk_key", "root_keys.nwk_key.key", Form::Bytes(16)),
    column("rx1_delay", "mac_settings.rx1_delay", Form::Name),
    column("supports_32_bit_f_cnt", "mac_settings.supports_32_bit_f_cnt", Form::Flag),
    column("dev_addr", "session.dev_addr", Form::Bytes(4)),
    column("app_s_key", "session.keys.app_s_key.key", Form::Bytes(16)),
    column("f_nwk_s_int_key", "session.keys.f_nwk_s_int_key.key", Form::Bytes(16)),
    column("s_nwk_s_int_key", "session.keys.s_nwk_s_int_key.key", Form::Bytes(16)),
    column("nwk_s_enc_key", "session.keys.nwk_s_enc_key.key", Form::Bytes(16)),
    column("last_f_cnt_up", "session.last_f_cnt_up", Form::Number),
    column("last_n_f_cnt_down", "session.last_n_f_cnt_down", Form::Number),
    column("last_a_f_cnt_down", "session.last_a_f_cnt_down", Form::Number),
];

/// Some that every file has, for an error.
pub(super) const NAMES: [&str; 4] = ["id", "dev_eui", "join_eui", "app_key"];

/// The known column of this name.
pub(super) fn find(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.name == name)
}

/// The name of a column that is not known, or its number when the name may be a value: the first row of a file without a
/// header.
pub(super) fn shown(name: &str, position: usize) -> String {
    let word = |word: &str| {
        let hex = word.split(|c: char| !c.is_ascii_hexdigit()).any(|run| run.len() >= 8);
        (1..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric()) && !hex
    };
    if name.len() <= 64 && name.split(['_', '-', ' ', '.']).all(word) {
        name.to_owned()
    } else {
        format!("column {position}")
    }
}

impl Column {
    /// The value of a cell; `None` when it is empty.
    ///
    /// # Errors
    /// What the column takes, and where the cell has something else.
    pub fn read(&self, cell: &[u8]) -> Result<Option<Value>, String> {
        let text = std::str::from_utf8(cell)
            .map_err(|error| format!("what follows byte {} is not UTF-8 text", error.valid_up_to()))?;
        let text = if self.form == Form::Text { text.trim_start() } else { text.trim() };
        if text.is_empty() {
            return Ok(None);
        }
        let value = match self.form {
            Form::Text => Ok(Value::String(text.to_owned())),
            Form::Bytes(length) => bytes(text, length).map(|bytes| Value::Bytes(bytes.into())),
            Form::Hex => number(text, 16).map(Value::U32),
            Form::Number => number(text, 10).map(Value::U32),
            Form::Flag => flag(text).map(Value::Bool),
            Form::Name => self.named(text).map(Value::EnumNumber),
        };
        value.map(Some)
    }

    /// Puts a value where it belongs, and its path into `paths`.
    pub fn store(&self, message: &mut DynamicMessage, value: Value, paths: &mut Vec<String>) {
        if self.is_wrapped() {
            path::touch(message, self.path);
            path::set_wrapped(message, self.path, value);
        } else {
            path::set(message, self.path, value);
        }
        paths.push(self.path.to_owned());
        // A device with a root key joins.
        let joins = "supports_join";
        if self.path.starts_with("root_keys.") && !paths.iter().any(|path| path == joins) {
            path::set(message, joins, Value::Bool(true));
            paths.push(joins.to_owned());
        }
    }

    /// True when its field tells a value at its default from none.
    fn is_wrapped(&self) -> bool {
        self.path.starts_with("mac_settings.")
    }

    fn named(&self, text: &str) -> Result<i32, String> {
        let path = if self.is_wrapped() { format!("{}.value", self.path) } else { self.path.to_owned() };
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
        let device = crate::proto::descriptor("EndDevice");
        let message = if parent.is_empty() { Some(device) } else { path::message_at(&device, parent) };
        let kind = message.and_then(|message| message.get_field_by_name(name)).map(|field| field.kind());
        let Some(Kind::Enum(values)) = kind else { return Err("this column takes no names".to_owned()) };
        match json::enum_number(&values, text) {
            Some(number) if values.get_value(number).is_some() => Ok(number),
            _ => {
                let example = values.values().last().map(|value| value.name().to_owned());
                Err(format!("this is no {}, such as `{}`", values.name(), example.unwrap_or_default()))
            }
        }
    }
}

fn bytes(text: &str, length: usize) -> Result<Vec<u8>, String> {
    let digits = 2 * length;
    if let Some(at) = text.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(format!("{digits} hexadecimal digits are needed, and character {} is none", at + 1));
    }
    if text.len() != digits {
        return Err(format!("{digits} hexadecimal digits are needed, and there are {}", text.len()));
    }
    hex::decode(text).map_err(|_| format!("{digits} hexadecimal digits are needed"))
}

fn number(text: &str, radix: u32) -> Result<u32, String> {
    let what =
        if radix == 16 { "a hexadecimal number up to FFFFFFFF" } else { "a number from 0 to 4294967295" };
    if let Some(at) = text.chars().position(|c| !c.is_digit(radix)) {
        return Err(format!("{what} is needed, and character {} is no digit", at + 1));
    }
    u32::from_str_radix(text, radix).map_err(|_| format!("{what} is needed"))
}

/// What the server takes (Go's `strconv.ParseBool`), in any case: spreadsheets write `TRUE`.
fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err("`true` or `false` is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{map::owner, model::device::Component, proto};

    #[test]
    fn every_column_is_stored_by_a_component() {
        let device = proto::descriptor("EndDevice");
        for column in COLUMNS {
            assert!(path::exists(&device, column.path), "{}", column.name);
            let told = |c: &Component| owner::is_writable(*c, column.path) || column.path.starts_with("ids.");
            assert!(Component::ALL.iter().any(told), "{}", column.name);
            let wrapper = path::message_at(&device, column.path);
            assert_eq!(wrapper.is_some(), column.is_wrapped(), "{}", column.name);
        }
    }

    #[test]
    fn what_may_be_a_value_is_not_shown_as_a_name() {
        for name in ["Serial no", "mac_settings.rx1_delay", "last_conf_f_cnt_down"] {
            assert_eq!(shown(name, 3), name);
        }
        for value in [
            "",
            "1111111111111111",
            "X11111111Z",
            "NNSXS.ABCDEFGHIJKLMNOPQRSTUVWX",
            "caf\u{e9}",
            "a\tb",
            "a__b",
        ] {
            assert_eq!(shown(value, 3), "column 3");
        }
    }
}
