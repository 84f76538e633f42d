//! How The Things Stack writes each bytes field and enum: the `(stackferry.json*)` options of `proto/`,
//! looked up once.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Value};

use crate::{map::options::extension, proto};

/// The text form of a bytes field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BytesForm {
    /// Standard base64 with padding.
    Base64,
    /// Upper-case hexadecimal: EUIs, DevAddr, NetID, keys.
    Hex,
    /// Four bytes and a length, as `26000000/7`.
    DevAddrPrefix,
}

/// The JSON names of an enum.
#[derive(Debug, Default)]
pub(super) struct EnumForm {
    number: bool,
    /// First declared name of each number: aliases come later in `proto/`, and are only read.
    names: HashMap<i32, String>,
    numbers: HashMap<String, i32>,
}

impl EnumForm {
    /// The JSON of `number`: its number or its first name.
    ///
    /// A number without a name stays a number. The server writes it as text, which it would not read back: `"16"` is also
    /// `ADR_ACK_LIMIT_16`.
    pub(super) fn write(&self, number: i32) -> serde_json::Value {
        match self.names.get(&number) {
            Some(name) if !self.number => name.as_str().into(),
            _ => number.into(),
        }
    }

    /// The number that `text` names: a full name, a name without prefix, an alias, then a decimal number.
    ///
    /// Names go first: `"1"` is `ADR_ACK_LIMIT_1`, which is number 0 (`ParseEnumString` of the server's JSON plugin).
    pub(super) fn read(&self, text: &str) -> Option<i32> {
        self.numbers.get(text).copied().or_else(|| text.parse().ok())
    }
}

struct Forms {
    bytes: HashMap<String, BytesForm>,
    enums: HashMap<String, EnumForm>,
}

static FORMS: LazyLock<Forms> = LazyLock::new(|| Forms {
    bytes: bytes_forms(),
    enums: proto::pool().all_enums().map(|e| (e.full_name().to_owned(), enum_form(&e))).collect(),
});

/// How JSON writes this bytes field.
pub(super) fn of_bytes(field: &FieldDescriptor) -> BytesForm {
    FORMS.bytes.get(field.full_name()).copied().unwrap_or(BytesForm::Base64)
}

/// How JSON writes this enum.
pub(super) fn of_enum(descriptor: &EnumDescriptor) -> &'static EnumForm {
    static NONE: LazyLock<EnumForm> = LazyLock::new(EnumForm::default);
    FORMS.enums.get(descriptor.full_name()).unwrap_or(&NONE)
}

fn bytes_forms() -> HashMap<String, BytesForm> {
    let option = extension("stackferry.json");
    let mut forms = HashMap::new();
    for field in proto::pool().all_messages().flat_map(|m| m.fields().collect::<Vec<_>>()) {
        let form = match text(&field.options(), &option).as_str() {
            "HEXBytes" => BytesForm::Hex,
            "DevAddrPrefixSlice" => BytesForm::DevAddrPrefix,
            _ => continue,
        };
        forms.insert(field.full_name().to_owned(), form);
    }
    forms
}

fn enum_form(descriptor: &EnumDescriptor) -> EnumForm {
    let options = descriptor.options();
    let mut form =
        EnumForm { number: flag(&options, &extension("stackferry.json_number")), ..EnumForm::default() };
    let prefix = match text(&options, &extension("stackferry.json_prefix")) {
        prefix if prefix.is_empty() => None,
        prefix => Some(prefix + "_"),
    };
    let alias = extension("stackferry.json_alias");
    // Declaration order, not the order of numbers: the first name of a number is the one that is written.
    for declared in &descriptor.enum_descriptor_proto().value {
        let (name, number) = (declared.name(), declared.number());
        form.names.entry(number).or_insert_with(|| name.to_owned());
        form.numbers.insert(name.to_owned(), number);
        if let Some(short) = prefix.as_deref().and_then(|p| name.strip_prefix(p)) {
            form.numbers.entry(short.to_owned()).or_insert(number);
        }
    }
    for value in descriptor.values() {
        if let Value::List(names) = value.options().get_extension(&alias).as_ref() {
            for name in names.iter().filter_map(Value::as_str) {
                form.numbers.insert(name.to_owned(), value.number());
            }
        }
    }
    form
}

fn text(options: &DynamicMessage, option: &ExtensionDescriptor) -> String {
    options.get_extension(option).as_str().unwrap_or_default().to_owned()
}

fn flag(options: &DynamicMessage, option: &ExtensionDescriptor) -> bool {
    options.get_extension(option).as_bool().unwrap_or_default()
}
