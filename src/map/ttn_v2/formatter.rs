//! V2's payload functions as formatters of The Things Stack.
//!
//! What V2 does with them is `core/handler/convert_fields.go` and `convert_fields_custom.go` of `TheThingsNetwork/ttn`; how The
//! Things Stack calls a formatter is `pkg/messageprocessors/javascript/javascript.go` of `TheThingsNetwork/lorawan-stack`.
//! docs/servers.md (V2 payload functions) has the rules and where the two differ.

use prost_reflect::{DynamicMessage, Value};

use crate::{map::path, proto};

/// The most bytes that the Application Server takes of a script (docs/servers.md, Application Server).
pub const MAX_SCRIPT: usize = 40960;

/// A formatter of The Things Stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Formatter {
    /// None.
    #[default]
    None,
    /// Its own Cayenne LPP.
    CayenneLpp,
    /// JavaScript.
    JavaScript(String),
}

impl Formatter {
    /// Its bytes, when they are more than the Application Server takes.
    pub fn too_long(&self) -> Option<usize> {
        match self {
            Self::JavaScript(script) if script.len() > MAX_SCRIPT => Some(script.len()),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::None => "FORMATTER_NONE",
            Self::CayenneLpp => "FORMATTER_CAYENNELPP",
            Self::JavaScript(_) => "FORMATTER_JAVASCRIPT",
        }
    }
}

/// The default formatters of an application. What is too long for the target is for the caller to leave out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formatters {
    /// For uplinks.
    pub up: Formatter,
    /// For downlinks.
    pub down: Formatter,
}

impl Formatters {
    /// What a `handler.Application` has.
    ///
    /// An application with custom functions and no encoder gets no downlink formatter: V2 refuses fields for a downlink then,
    /// and so does The Things Stack. One without decoder, converter and validator gets no uplink formatter.
    pub fn of(application: &DynamicMessage) -> Self {
        let function = |field: &str| path::string(application, field);
        match path::string(application, "payload_format").as_str() {
            "custom" => {
                let (decoder, converter, validator) =
                    (function("decoder"), function("converter"), function("validator"));
                let encoder = function("encoder");
                Self { up: uplink(&decoder, &converter, &validator), down: downlink(&encoder) }
            }
            "cayennelpp" => Self { up: Formatter::CayenneLpp, down: Formatter::CayenneLpp },
            _ => Self::default(),
        }
    }

    /// The payload format when V2 has one that neither side of this program knows, which is treated as none.
    pub fn unknown_format(application: &DynamicMessage) -> Option<String> {
        let format = path::string(application, "payload_format");
        (!matches!(format.as_str(), "custom" | "cayennelpp" | "")).then_some(format)
    }

    /// True when there is nothing to set on the target.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The `MessagePayloadFormatters` of an application link.
    pub fn message(&self) -> DynamicMessage {
        let mut message = proto::message("MessagePayloadFormatters");
        for (side, formatter) in [("up", &self.up), ("down", &self.down)] {
            let number = proto::enumeration("PayloadFormatter").get_value_by_name(formatter.name());
            let number = number.map_or(0, |v| v.number());
            path::set(&mut message, &format!("{side}_formatter"), Value::EnumNumber(number));
            if let Formatter::JavaScript(script) = formatter {
                let at = format!("{side}_formatter_parameter");
                path::set(&mut message, &at, Value::String(script.clone()));
            }
        }
        message
    }
}

/// One function of V2 inside a script: the original, unchanged, in a function of ours whose parameters are the names that V2 gave
/// it, and the call by which V2 ran it (`convert_fields_custom.go`).
///
/// Nothing of ours is in that scope or around it but names that are in no original, so that whatever an original declares stays its
/// own, as in the machine of its own that V2 gave it. A line break stands before and after it, as it may begin or end in a comment; the
/// semicolon before it makes a `"use strict"` of its first line an expression, as V2's engine (otto) knew no strict mode.
fn wrapped(name: &str, value: &str, original: &str, call: &str) -> String {
    format!("function {name}({value}, port, console) {{\n;\n{original}\n;return {call};\n}}\n")
}

/// Names of ours that occur in none of the originals: `stackferry` and, where that is taken, a number.
struct Names(String);

impl Names {
    fn free(originals: &[&str]) -> Self {
        let taken = |prefix: &String| originals.iter().any(|text| text.contains(prefix.as_str()));
        let mut prefixes =
            std::iter::once("stackferry".to_owned()).chain((2_u64..).map(|n| format!("stackferry{n}_")));
        Self(prefixes.find(|prefix| !taken(prefix)).unwrap_or_default())
    }

    fn of(&self, what: &str) -> String {
        format!("{}{what}", self.0)
    }

    /// A text of ours with its names: they are written `@Name`.
    fn fill(&self, text: &str) -> String {
        text.replace('@', &self.0)
    }
}

const HEAD: &str =
    "// Made by stackferry. The payload functions of The Things Network Stack V2 stand below as they were.\n";

/// `@Console`: V2 had one, The Things Stack has none.
/// `@Export`: what a function of V2 returned leaves its machine as data (otto `Value.Export`): arrays without their holes,
/// objects as their own enumerable fields without those that are undefined. `@Fields` takes nothing but an object.
const COMMON: &str = "\
var @Console = {};
['log', 'debug', 'info', 'warn', 'error', 'dir', 'trace', 'time', 'timeEnd', 'assert'].forEach(function (name) {
  @Console[name] = function () {};
});
function @Export(value) {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) {
    return value;
  }
  var copy = Array.isArray(value) ? [] : {};
  Object.keys(value).forEach(function (key) {
    var inner = @Export(value[key]);
    if (Array.isArray(copy)) {
      if (/^[0-9]+$/.test(key)) {
        copy.push(inner === undefined ? null : inner);
      }
    } else if (inner !== undefined) {
      Object.defineProperty(copy, key, { value: inner, writable: true, enumerable: true, configurable: true });
    }
  });
  return copy;
}
";

/// `@Alone`: what a function assigns without declaring it is gone afterwards, as its machine was.
/// `@Finite`: V2 gives no fields when they cannot be written as JSON.
const UP: &str = "\
function @Alone(run) {
  var global = (function () { return this; })();
  var before = Object.getOwnPropertyNames(global);
  try {
    return run();
  } finally {
    Object.getOwnPropertyNames(global).forEach(function (name) {
      if (before.indexOf(name) < 0) {
        delete global[name];
      }
    });
  }
}
function @Fields(value, name) {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function') || Array.isArray(value)) {
    throw new Error(name + ' does not return an object');
  }
  return @Export(value);
}
function @Finite(value) {
  if (typeof value === 'number' && !isFinite(value)) {
    throw new Error('Payload Function output cannot be marshaled to JSON: unsupported value: ' + value);
  }
  if (value !== null && typeof value === 'object') {
    Object.keys(value).forEach(function (key) {
      @Finite(value[key]);
    });
  }
}
";

const VALIDATE: &str = "\
  var valid = @Validate(fields, input.fPort, @Console);
  if (typeof valid !== 'boolean') {
    throw new Error('Validator does not return a boolean');
  }
  if (!valid) {
    throw new Error('payload validator function returned false');
  }
";

const DOWN: &str = "\
function @Run(input) {
  var value = @Encode(input.data, input.fPort, @Console);
  if (!Array.isArray(value)) {
    throw new Error('Encoder does not return an Array');
  }
  var bytes = @Export(value);
  bytes.forEach(function (n) {
    if (typeof n !== 'number' || !isFinite(n) || Math.floor(n) !== n) {
      throw new Error('Encoder should return an Array of integer numbers');
    }
    if (n < 0 || n > 255) {
      throw new Error('Numbers in Array should be between 0 and 255');
    }
  });
  return { bytes: bytes, fPort: input.fPort, warnings: [], errors: [] };
}
function encodeDownlink(input) {
  try {
    return @Run(input);
  } catch (error) {
    return { bytes: [], fPort: input.fPort, warnings: [], errors: [String(error)] };
  }
}
";

/// One step of the chain that gives fields.
fn step(call: &str, name: &str) -> String {
    format!("  fields = @Fields(@Alone(function () {{ return {call}; }}), '{name}');\n")
}

/// The uplink formatter: decoder, converter and validator as V2 chains them; a missing one is passed over. Where V2 drops an
/// uplink that the validator refuses, a formatter can only give an error in place of fields.
fn uplink(decoder: &str, converter: &str, validator: &str) -> Formatter {
    let originals = [decoder, converter, validator];
    if originals.iter().all(|text| text.is_empty()) {
        return Formatter::None;
    }
    let names = Names::free(&originals);
    let (mut script, mut steps) = (HEAD.to_owned(), String::new());
    if !decoder.is_empty() {
        script += &wrapped(&names.of("Decode"), "payload", decoder, "Decoder(payload.slice(0), port)");
        steps += &step("@Decode(input.bytes, input.fPort, @Console)", "Decoder");
    }
    if !converter.is_empty() {
        script += &wrapped(&names.of("Convert"), "fields", converter, "Converter(fields, port)");
        steps += &step("@Convert(fields, input.fPort, @Console)", "Converter");
    }
    if !validator.is_empty() {
        script += &wrapped(&names.of("Validate"), "fields", validator, "Validator(fields, port)");
        steps += VALIDATE;
    }
    script += &names.fill(COMMON);
    script += &names.fill(UP);
    let run = format!(
        "function @Run(input) {{\n  var fields = {{}};\n{steps}  fields = @Export(fields);\n  @Finite(fields);\n  \
           return {{ data: fields, warnings: [], errors: [] }};\n}}\n\
         function decodeUplink(input) {{\n  try {{\n    return @Run(input);\n  }} catch (error) {{\n    \
           return {{ data: {{}}, warnings: [], errors: [String(error)] }};\n  }}\n}}\n"
    );
    script += &names.fill(&run);
    Formatter::JavaScript(script)
}

/// The downlink formatter. V2 takes an array of whole numbers from 0 to 255 and nothing else, and sends it on the port that it
/// was given.
fn downlink(encoder: &str) -> Formatter {
    if encoder.is_empty() {
        return Formatter::None;
    }
    let names = Names::free(&[encoder]);
    let function = wrapped(&names.of("Encode"), "payload", encoder, "Encoder(payload, port)");
    Formatter::JavaScript(HEAD.to_owned() + &function + &names.fill(COMMON) + &names.fill(DOWN))
}

// What the scripts do is tested in an engine for JavaScript: tests/formatters/.
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_of_ours_are_in_no_original(original in "(stackferry[0-9]?_?[A-Z]?[a-z]{0,3} ?){0,6}") {
            prop_assert!(!original.contains(&Names::free(&[&original]).0));
        }
    }
}
