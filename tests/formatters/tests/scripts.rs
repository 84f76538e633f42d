//! The scripts, run in an engine for JavaScript, against the original functions, run as V2 ran them.

use std::collections::BTreeMap;

use boa_engine::{
    Context, JsString, JsValue, Source,
    object::builtins::JsArray,
    property::{Attribute, PropertyKey},
};
use proptest::prelude::*;
use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::{
        path, rules,
        ttn_v2::formatter::{Formatter, Formatters, MAX_SCRIPT},
    },
    proto,
};

fn uplink(decoder: &str, converter: &str, validator: &str) -> Formatter {
    let functions = [("decoder", decoder), ("converter", converter), ("validator", validator)];
    Formatters::of(&application(&[&[("payload_format", "custom")][..], &functions].concat())).up
}

fn downlink(encoder: &str) -> Formatter {
    Formatters::of(&application(&[("payload_format", "custom"), ("encoder", encoder)])).down
}

/// Data outside of a machine for JavaScript, as Go has it.
#[derive(Debug, Clone, PartialEq)]
enum Data {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Data>),
    Map(BTreeMap<String, Data>),
}

fn machine() -> Context {
    let mut context = Context::default();
    context.runtime_limits_mut().set_loop_iteration_limit(10_000);
    context.runtime_limits_mut().set_recursion_limit(200);
    context
}

/// What otto's `Value.Export` makes of a value.
fn export(value: &JsValue, context: &mut Context) -> Data {
    if let Some(text) = value.as_string() {
        return Data::Text(text.to_std_string_lossy());
    }
    if let Some(number) = value.as_number() {
        return Data::Number(number);
    }
    if let Some(flag) = value.as_boolean() {
        return Data::Bool(flag);
    }
    let Some(object) = value.as_object() else {
        return if value.is_null() { Data::Null } else { Data::Undefined };
    };
    let mut fields = BTreeMap::new();
    let mut list = Vec::new();
    for key in object.own_property_keys(context).expect("no proxy") {
        // The length of an array, and what a function is made of, are not enumerable.
        if object.is_callable() || (object.is_array() && matches!(key, PropertyKey::String(_))) {
            continue;
        }
        let inner = object.get(key.clone(), context).expect("no getter");
        let inner = export(&inner, context);
        match key {
            PropertyKey::Index(_) if object.is_array() => {
                list.push(if inner == Data::Undefined { Data::Null } else { inner });
            }
            key if inner != Data::Undefined => drop(fields.insert(key.to_string(), inner)),
            _ => {}
        }
    }
    if object.is_array() { Data::List(list) } else { Data::Map(fields) }
}

fn import(data: &Data, context: &mut Context) -> JsValue {
    match data {
        Data::Undefined => JsValue::undefined(),
        Data::Null => JsValue::null(),
        Data::Bool(flag) => JsValue::from(*flag),
        Data::Number(number) => JsValue::from(*number),
        Data::Text(text) => JsValue::from(JsString::from(text.as_str())),
        Data::List(list) => {
            let list: Vec<_> = list.iter().map(|d| import(d, context)).collect();
            JsArray::from_iter(list, context).into()
        }
        Data::Map(map) => {
            let object = boa_engine::JsObject::with_object_proto(context.intrinsics());
            for (key, inner) in map {
                let inner = import(inner, context);
                object.set(JsString::from(key.as_str()), inner, false, context).expect("an own field");
            }
            object.into()
        }
    }
}

/// `functions.RunCode`: a machine of its own with two variables, in which the code is run.
fn run_code(function: &str, call: &str, name: &str, value: &Data, port: u8) -> Result<(Data, Data), String> {
    let mut context = machine();
    context
        .eval(Source::from_bytes("var console = { log: function () {}, error: function () {} };"))
        .expect("runs");
    let value = import(value, &mut context);
    for (name, value) in [(name, value.clone()), ("port", JsValue::from(port))] {
        context.register_global_property(JsString::from(name), value, Attribute::all()).expect("a name");
    }
    // Without the semicolon a `"use strict"` would count here; otto has no strict mode.
    let code = format!("\n\t\t;{function};\n\t\t{call}\n\t");
    let result = context.eval(Source::from_bytes(&code)).map_err(|e| e.to_string())?;
    Ok((export(&result, &mut context), export(&value, &mut context)))
}

fn bytes_of(payload: &[u8]) -> Data {
    Data::List(payload.iter().map(|b| Data::Number(f64::from(*b))).collect())
}

/// `CustomUplinkFunctions.Decode` and what `ConvertFieldsUp` does after it.
fn v2_up([decoder, converter, validator]: [&str; 3], payload: &[u8], port: u8) -> Result<Data, String> {
    let mut fields = Data::Map(BTreeMap::new());
    if !decoder.is_empty() {
        let call = "Decoder(payload.slice(0), port);";
        (fields, _) = run_code(decoder, call, "payload", &bytes_of(payload), port)?;
        if !matches!(fields, Data::Map(_)) {
            return Err("Decoder does not return an object".into());
        }
    }
    if !converter.is_empty() {
        (fields, _) = run_code(converter, "Converter(fields, port)", "fields", &fields, port)?;
        if !matches!(fields, Data::Map(_)) {
            return Err("Converter does not return an object".into());
        }
    }
    if !validator.is_empty() {
        // Fields are the map of the handler itself: what is written to it stays.
        let (valid, after) = run_code(validator, "Validator(fields, port)", "fields", &fields, port)?;
        fields = after;
        match valid {
            Data::Bool(true) => {}
            Data::Bool(false) => return Err("payload validator function returned false".into()),
            _ => return Err("Validator does not return a boolean".into()),
        }
    }
    if is_json(&fields) { Ok(fields) } else { Err("cannot be marshaled to JSON".into()) }
}

fn is_json(data: &Data) -> bool {
    match data {
        Data::Number(number) => number.is_finite(),
        Data::List(list) => list.iter().all(is_json),
        Data::Map(map) => map.values().all(is_json),
        _ => true,
    }
}

/// `CustomDownlinkFunctions.encode`.
fn v2_down(encoder: &str, fields: &Data, port: u8) -> Result<Vec<u8>, String> {
    let (value, _) = run_code(encoder, "Encoder(payload, port)", "payload", fields, port)?;
    let Data::List(list) = value else { return Err("Encoder does not return an Array".into()) };
    let mut bytes = Vec::new();
    for element in list {
        match element {
            Data::Number(n) if n.fract() == 0.0 && (0.0..=255.0).contains(&n) => bytes.push(n as u8),
            Data::Number(n) if n.fract() == 0.0 => {
                return Err("Numbers in Array should be between 0 and 255".into());
            }
            _ => return Err("Encoder should return an Array of integer numbers".into()),
        }
    }
    Ok(bytes)
}

/// Calls a function of a script as The Things Stack does, and answers what it returned.
fn call(formatter: &Formatter, function: &str, input: Data) -> BTreeMap<String, Data> {
    let Formatter::JavaScript(script) = formatter else { panic!("no script") };
    let mut context = machine();
    // The Things Stack has no console.
    context.eval(Source::from_bytes("delete globalThis.console;")).expect("runs");
    let input = import(&input, &mut context);
    context
        .register_global_property(boa_engine::js_string!("input"), input, Attribute::all())
        .expect("a name");
    let code = format!("{script}\nfunction main(input) {{ return {function}(input); }}\nmain(input)");
    match context.eval(Source::from_bytes(&code)) {
        Ok(output) => match export(&output, &mut context) {
            Data::Map(map) => map,
            other => panic!("{other:?}"),
        },
        // The whole formatter fails: the same as an error of its own.
        Err(error) => [("errors".to_owned(), Data::List(vec![Data::Text(error.to_string())]))].into(),
    }
}

fn errors(output: &BTreeMap<String, Data>) -> Vec<String> {
    let Some(Data::List(list)) = output.get("errors") else { panic!("no errors in {output:?}") };
    list.iter().map(|e| if let Data::Text(text) = e { text.clone() } else { panic!("{e:?}") }).collect()
}

fn tts_up(functions: [&str; 3], payload: &[u8], port: u8) -> Result<Data, String> {
    let [decoder, converter, validator] = functions;
    let input =
        [("bytes".to_owned(), bytes_of(payload)), ("fPort".to_owned(), Data::Number(f64::from(port)))];
    let output = call(&uplink(decoder, converter, validator), "decodeUplink", Data::Map(input.into()));
    match errors(&output).as_slice() {
        [] => Ok(output["data"].clone()),
        all => Err(all.join(", ")),
    }
}

fn tts_down(encoder: &str, fields: &Data, port: u8) -> Result<(Vec<u8>, u8), String> {
    let input = [("data".to_owned(), fields.clone()), ("fPort".to_owned(), Data::Number(f64::from(port)))];
    let output = call(&downlink(encoder), "encodeDownlink", Data::Map(input.into()));
    let byte = |d: &Data| if let Data::Number(n) = d { *n as u8 } else { panic!("{d:?}") };
    match (errors(&output).as_slice(), output.get("bytes")) {
        ([], Some(Data::List(list))) => Ok((list.iter().map(byte).collect(), byte(&output["fPort"]))),
        (all, _) => Err(all.join(", ")),
    }
}

const DECODERS: &[&str] = &[
    "",
    "function Decoder(bytes, port) { return { port: port, first: bytes[0], sum: bytes.reduce(function (a, b) { return a + b; }, 0), list: bytes }; }",
    "// starts in a comment\nvar Decoder = function (b, p) { b.push(9); return { length: b.length, raw: payload.length, p: port } } // and ends in one",
    "'use strict';\nfunction Decoder(bytes, port) { leaked = bytes.length; return { n: leaked, nested: { a: [1, , 3], u: undefined, f: function () {}, d: new Date(0), nul: null } }; }",
    "function Decoder(bytes, port) { console.log('seen', bytes); return { nan: bytes[100] / 2, inf: 1 / (bytes[0] - bytes[0]) }; }",
    "function Decoder(bytes, port) { if (port > 100) { throw new Error('no such port'); } if (port > 90) { throw 'text'; } return bytes; }",
    "function Decoder(bytes, port) { return port % 2 ? null : 'text'; }",
    "function Decoder(bytes) { while (bytes.length < 1000000) { bytes.push(0); } return {}; }",
    "function Decoder(bytes { syntax error",
    "function decodeUplink() { return 1; } function main() { return 2; } function Converter() { return 3; } var stackferryRun = 1, stackferry2_Export = 2;\nfunction Decoder(bytes, port) { return { a: decodeUplink(), b: main(), c: typeof Validator, d: stackferryRun }; }",
    "function Other() {}",
    "Decoder = function (bytes, port) { return { implicit: true, hi: bytes[0] << 8 | bytes[1], neg: (bytes[0] << 24 >> 16), toString: 5, __proto__: { x: 1 } }; }",
    "function Decoder(fields, EXPORT) { var run = 1, input = 2; fields = fields.slice(1); return { fields: fields, input: input }; }",
];

const CONVERTERS: &[&str] = &[
    "",
    "function Converter(decoded, port) { return decoded; }",
    "function Converter(decoded, port) { decoded.double = decoded.first * 2; delete decoded.list; return decoded; }",
    "function Converter(decoded, port) { var keys = []; for (var k in decoded) { keys.push(k); } return { keys: keys.sort(), json: JSON.stringify(decoded.list), global: typeof leaked, me: fields === decoded }; }",
    "function Converter(decoded) { return [decoded]; }",
    "function Converter(decoded) { return decoded.nested.a.length > 1 ? { n: decoded.nested.a.length, d: typeof decoded.nested.d } : undefined; }",
    "function Converter(decoded) { throw { toString: function () { return 'odd'; } }; }",
    "function Decoder() { return 'mine'; }\nfunction Converter(decoded) { return { d: Decoder() }; } /* open end */",
];

const VALIDATORS: &[&str] = &[
    "",
    "function Validator(converted, port) { return true; }",
    "function Validator(converted, port) { return port < 50; }",
    "function Validator(converted, port) { converted.added = { by: 'validator', skip: undefined }; return true; }",
    "function Validator(converted) { return 1; }",
    "function Validator(converted) { return new Boolean(true); }",
    "function Validator(converted) { return converted.first.length > 0; }",
    "function Validator(converted) { return !!converted && converted.first !== 255 }\n//",
];

const ENCODERS: &[&str] = &[
    "function Encoder(object, port) { var bytes = []; bytes[0] = object.led ? 1 : 0; bytes[1] = (object.interval >> 8) & 0xff; bytes[2] = object.interval & 0xff; return bytes; }",
    "function Encoder(object, port) { var bytes = []; bytes[0] = port; bytes[5] = 2; return bytes; } // holes",
    "function Encoder(object) { return object.list; }",
    "function Encoder(object) { return [object.interval]; }",
    "function Encoder(object) { return 'text'; }",
    "function Encoder(object) { return { 0: 1, length: 1 }; }",
    "function Encoder(object) { return undefined; }",
    "function Encoder(object) { if (object.interval > 10) { throw new Error('too far'); } return [payload.interval, port]; }",
    "function Encoder(object) { return [1.5]; }",
    "function Encoder(object) { return [NaN, '1', null]; }",
    "function Encoder(object) { return 'Hi'.split('').map(function (c) { return c.charCodeAt(); }); }",
    "function encodeDownlink() { return [7]; } function Encoder() { console.error('x'); return encodeDownlink(); }",
    "function Encoder( {",
];

/// Both gave fields, the same, or both gave none; and V2's own refusals have its words.
fn agree<T: PartialEq + std::fmt::Debug>(
    v2: &Result<T, String>,
    tts: &Result<T, String>,
) -> Result<(), String> {
    match (v2, tts) {
        (Ok(a), Ok(b)) if a == b => Ok(()),
        (Err(a), Err(b))
            if !(a.contains("does not return") || a.contains("returned false")) || b.contains(a) =>
        {
            Ok(())
        }
        _ => Err(format!("V2: {v2:?}\nTTS: {tts:?}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_uplink_formatter_does_what_the_functions_did(
        decoder in prop::sample::select(DECODERS), converter in prop::sample::select(CONVERTERS),
        validator in prop::sample::select(VALIDATORS), payload in prop::collection::vec(any::<u8>(), 0..12), port in 1_u8..=223,
    ) {
        let functions = [decoder, converter, validator];
        prop_assume!(functions.iter().any(|f| !f.is_empty()));
        let (v2, tts) = (v2_up(functions, &payload, port), tts_up(functions, &payload, port));
        prop_assert_eq!(agree(&v2, &tts), Ok(()));
    }

    #[test]
    fn a_downlink_formatter_does_what_the_encoder_did(
        encoder in prop::sample::select(ENCODERS), led: bool, interval in prop_oneof![-10.0..300.0, (0..300_i32).prop_map(f64::from)],
        list in prop::collection::vec(-1..258_i32, 0..4), port in 1_u8..=223,
    ) {
        let list = Data::List(list.into_iter().map(|n| Data::Number(f64::from(n))).collect());
        let fields = [("led", Data::Bool(led)), ("interval", Data::Number(interval)), ("list", list)];
        let fields = Data::Map(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
        let v2 = v2_down(encoder, &fields, port).map(|bytes| (bytes, port));
        prop_assert_eq!(agree(&v2, &tts_down(encoder, &fields, port)), Ok(()));
    }
}

/// The corpus has every outcome in it, so that agreement means something.
#[test]
fn each_outcome_is_met() {
    let by = |d: usize, c: usize, v: usize, port| {
        v2_up([DECODERS[d], CONVERTERS[c], VALIDATORS[v]], &[255, 3], port)
    };
    assert!(matches!(by(1, 2, 1, 1), Ok(Data::Map(map)) if map.get("double") == Some(&Data::Number(510.0))));
    assert_eq!(by(1, 1, 2, 60), Err("payload validator function returned false".into()));
    assert_eq!(by(1, 1, 4, 1), Err("Validator does not return a boolean".into()));
    assert_eq!(by(6, 0, 0, 1), Err("Decoder does not return an object".into()));
    assert_eq!(by(1, 4, 0, 1), Err("Converter does not return an object".into()));
    assert_eq!(by(4, 0, 0, 1), Err("cannot be marshaled to JSON".into()));
    assert!(by(5, 0, 0, 101).expect_err("thrown").contains("no such port"));
    for (d, _) in DECODERS.iter().enumerate().skip(1) {
        for port in [1, 2, 101] {
            let functions = [DECODERS[d], "", ""];
            let (v2, tts) = (v2_up(functions, &[1, 2, 3], port), tts_up(functions, &[1, 2, 3], port));
            assert_eq!(agree(&v2, &tts), Ok(()), "{}", DECODERS[d]);
        }
    }
}

#[test]
fn the_originals_stand_in_the_script_unchanged() {
    for (decoder, converter, validator) in [(1, 2, 3), (2, 7, 7), (8, 0, 0)] {
        let functions = [DECODERS[decoder], CONVERTERS[converter], VALIDATORS[validator]];
        let Formatter::JavaScript(script) = uplink(functions[0], functions[1], functions[2]) else {
            panic!("none")
        };
        assert!(functions.iter().all(|f| script.contains(f)));
    }
}

fn application(fields: &[(&str, &str)]) -> DynamicMessage {
    let mut application = proto::message("handler.Application");
    for (field, text) in fields {
        path::set(&mut application, field, Value::String((*text).to_owned()));
    }
    application
}

#[test]
fn formats_map_to_formatters() {
    let cayenne = Formatters::of(&application(&[("payload_format", "cayennelpp")]));
    assert_eq!(cayenne, Formatters { up: Formatter::CayenneLpp, down: Formatter::CayenneLpp });
    assert_eq!(path::number(&cayenne.message(), "up_formatter"), formatter("FORMATTER_CAYENNELPP"));
    assert!(Formatters::of(&application(&[])).is_empty());
    assert!(Formatters::of(&application(&[("payload_format", "custom")])).is_empty());
    let odd = application(&[("payload_format", "grpc"), ("decoder", "x")]);
    assert!(Formatters::of(&odd).is_empty());
    assert_eq!(Formatters::unknown_format(&odd).as_deref(), Some("grpc"));
    let custom = Formatters::of(&application(&[("payload_format", "custom"), ("encoder", ENCODERS[0])]));
    assert_eq!(custom.up, Formatter::None);
    let message = custom.message();
    assert_eq!(path::number(&message, "down_formatter"), formatter("FORMATTER_JAVASCRIPT"));
    assert!(path::string(&message, "down_formatter_parameter").contains(ENCODERS[0]));
    assert_eq!(rules::violation(&message), None);
}

fn formatter(name: &str) -> u64 {
    proto::enumeration("PayloadFormatter").get_value_by_name(name).expect("known").number() as u64
}

#[test]
fn a_script_that_is_too_long_is_told() {
    let long = format!("{}// {}", DECODERS[1], "ä".repeat(MAX_SCRIPT / 2));
    let formatters = Formatters::of(&application(&[("payload_format", "custom"), ("decoder", &long)]));
    assert!(formatters.up.too_long().is_some_and(|bytes| bytes > MAX_SCRIPT));
    assert_eq!(uplink(DECODERS[1], CONVERTERS[1], VALIDATORS[1]).too_long(), None);
}
