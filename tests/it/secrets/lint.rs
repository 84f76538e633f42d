//! What the compiler does not forbid: types that hold keys and can be printed, and places that print whatever they get.
//! Reads the source of the program, without its tests.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

use stackferry::model::secret::is_secret_path;
use syn::{Attribute, Fields, Item, ItemImpl, Macro, Meta, Type, visit::Visit};

/// Types whose own `Debug` (or `Serialize`) shows everything that is in them.
const OPEN: &[&str] = &["DynamicMessage", "Zeroizing", "Plain", "Bytes", "BytesMut"];
/// Types that can hold anything, harmless by themselves: it is the name of the field that tells.
const BYTES: &[&str] = &["Vec", "String", "str", "u8", "Value"];
/// What makes a type printable.
const PRINTS: &[&str] = &["Debug", "Display", "Serialize", "LowerHex", "UpperHex"];

/// Derived, and right so.
const DERIVED: &[(&str, &str)] = &[
    ("Band.description", "the channels of a band"),
    ("Belongings.keys_in_use", "IDs of API keys"),
    ("Facts.downlink_keys", "IDs of API keys"),
    ("Facts.keys_in_use", "IDs of API keys"),
    ("GatewayPlan.keys", "what API keys are for"),
    ("Gateways.api_keys", "what API keys are for"),
    ("ItemState.key", "the ID of an API key, and the number of its seal"),
    ("Job.keys_in_use", "IDs of API keys"),
    ("Override.key", "the name of a setting"),
    ("PinChange.key", "the name of a setting"),
    ("Row.key_check", "a sealed empty text, by which a wrong key is told"),
    ("Rules.Bytes.0", "a rule for bytes"),
    ("Settings.keys", "what API keys are for, and their IDs"),
    ("Settings.keys_file", "the name of a file"),
    ("Sort.key", "the name of a field"),
    ("Sort.look", "a function"),
    ("TargetFacts.mac_defaults", "the settings of a Network Server"),
    ("Wishes.api_keys", "what API keys are for"),
];

/// Written by hand for a type that holds keys, or the messages in which they are; each is read here and shows none. Tests
/// print them: `nothing_that_holds_keys_shows_them_in_debug`, `journal::tests::secrecy`, `wire::client::unit`,
/// `rehearsal::lorawan_tests`, `rehearsal::ttn_v2::tests`, `plan::tests::secrets`.
const BY_HAND: &[&str] = &[
    "AccessKey",
    "Answer",
    "ApplicationState",
    "Body",
    "Change",
    "CupsAnswer",
    "DataFrame",
    "Downlink",
    "Found",
    "List",
    "Listing",
    "Parsed",
    "PinChange",
    "Received",
    "Record",
    "Redactor",
    "Reply",
    "Sealed",
    "ServerTls",
    "Session",
    "Settings",
    "There",
    "TtnV2",
    "Uplink",
    "V2Device",
    "V2Application",
    "Write",
];

/// Texts in which something is shown by `Debug`, and events, and what they show.
const SHOWN: &[(&str, &str)] = &[
    ("src/cli/memory.rs: % error , \"core dumps cannot be switched off\"", "an error of the system"),
    (
        "src/cli/memory.rs: % error , \"the memory cannot be closed to other processes\"",
        "an error of the system",
    ),
    ("src/config/fingerprint.rs: {:?}", "words of the configuration"),
    ("src/config/fingerprint.rs: {copy:?}", "words of the configuration"),
    ("src/config/fingerprint.rs: {w:?}", "words of the configuration"),
    ("src/engine/event.rs: waiting {duration:.1?} for the {side}: {reason} ({method} {about})", "a time"),
    ("src/engine/event.rs: {side} {method} {about} attempt {attempt}: {code} in {elapsed:.1?}", "a time"),
    ("src/plan/stale.rs: {:?}", "names of decisions"),
    ("src/map/json/mod.rs: Parsed({}, unknown {:?})", "names of fields"),
    ("src/map/json/read.rs: a whole number ({kind:?})", "a type"),
    ("src/map/rules/kinds.rs: {value:?}", "compared, and never shown"),
    (
        "src/rehearsal/air.rs: Heard({application_id}.{device_id} {uplink:?}, {} downlinks)",
        "by hand, see above",
    ),
    ("src/rehearsal/auditor.rs: {promise:?}: {device}{eui} at the {side}: {what}", "the name of a promise"),
    ("src/rehearsal/auditor/proof.rs: {network}: {heard:?}", "by hand, see above"),
    ("src/rehearsal/device.rs: Data(f_cnt={f_cnt} f_port={f_port:?} ack={ack})", "a port"),
    (
        "src/rehearsal/lorawan.rs: DataFrame({dev_addr} uplink={uplink} confirmed={confirmed} f_cnt={f_cnt} f_port={f_port:?})",
        "a port",
    ),
    ("src/rehearsal/service.rs: % error , \"the embedded server stopped\"", "an error of the system"),
    ("src/rehearsal/store.rs: Change({:?} {})", "the name of a table"),
    ("src/rehearsal/tts/failure.rs: : {cause:?}", "the message of an error of the embedded server"),
    ("src/rehearsal/tts/fields.rs: '{}' has no subfields, but {below:?} were specified", "names of fields"),
    ("src/report/json.rs: {:?}", "a severity"),
    ("src/step.rs: {event:?}", "an event of the journal, which holds none"),
    ("src/wire/connection.rs: % error , \"a connection ended\"", "an error of HTTP/2"),
    ("src/wire/pages.rs: Listing({} items, without {:?})", "names of fields"),
    ("src/wire/status.rs: status {:?}", "a status code"),
    ("src/wire/tls.rs: % error , \"a root certificate of the system cannot be read\"", "an error of a file"),
];

struct Source {
    path: String,
    items: Vec<Item>,
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = |path: &str| path.contains("/tests/") || path.ends_with("tests.rs");
    let sources = files(&root.join("src")).into_iter().filter_map(|path| {
        let name = path.strip_prefix(root).expect("below").display().to_string();
        if tests(&name) {
            return None;
        }
        let text = fs::read_to_string(path).expect("a file");
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        Some(Source { path: name, items: file.items })
    });
    sources.collect()
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string().contains("test"),
        Meta::Path(path) => path.is_ident("test"),
        Meta::NameValue(_) => false,
    })
}

/// What an item derives of [`PRINTS`].
fn derived(attributes: &[Attribute]) -> Vec<String> {
    let lists = attributes.iter().filter_map(|a| match &a.meta {
        Meta::List(list) if list.path.is_ident("derive") => Some(list.tokens.to_string()),
        _ => None,
    });
    let names: String = lists.collect::<Vec<_>>().join(",");
    let words = names.split(|c: char| !c.is_alphanumeric()).map(str::to_owned);
    words.filter(|word| PRINTS.contains(&word.as_str())).collect()
}

/// The names of all types in a type.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl<'a> Visit<'a> for Names {
    fn visit_path_segment(&mut self, segment: &'a syn::PathSegment) {
        self.0.insert(segment.ident.to_string());
        syn::visit::visit_path_segment(self, segment);
    }
}

fn names(ty: &Type) -> BTreeSet<String> {
    let mut names = Names::default();
    names.visit_type(ty);
    names.0
}

fn sounds_secret(field: &str) -> bool {
    let words = ["key", "keys", "secret", "password", "token", "plain", "payload"];
    is_secret_path(field) || field.split('_').any(|word| words.contains(&word))
}

/// A field that holds a key and shows it.
fn open_field(name: &str, ty: &Type) -> bool {
    let names = names(ty);
    OPEN.iter().any(|open| names.contains(*open))
        || (sounds_secret(name) && BYTES.iter().any(|bytes| names.contains(*bytes)))
}

fn open_fields(fields: &Fields) -> Vec<String> {
    let all = fields.iter().enumerate().map(|(index, field)| {
        (field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string), &field.ty)
    });
    all.filter(|(name, ty)| open_field(name, ty)).map(|(name, _)| name).collect()
}

/// Everything that matters in the source.
#[derive(Default)]
struct Survey {
    path: String,
    /// `Type.field` that is open, and what the type derives.
    open: BTreeMap<String, (String, Vec<String>)>,
    /// Types with [`PRINTS`] by hand.
    by_hand: BTreeSet<String>,
    /// `path: text` of macros that show something by `Debug`.
    shown: BTreeSet<String>,
    types: HashSet<String>,
}

impl Survey {
    fn of(sources: &[Source]) -> Self {
        let mut survey = Self::default();
        for source in sources {
            survey.path.clone_from(&source.path);
            source.items.iter().for_each(|item| survey.visit_item(item));
        }
        survey
    }

    fn note(&mut self, name: &str, fields: Vec<String>, attributes: &[Attribute]) {
        self.types.insert(name.to_owned());
        for field in fields {
            let derived = derived(attributes);
            self.open.insert(format!("{name}.{field}"), (name.to_owned(), derived));
        }
    }
}

impl<'a> Visit<'a> for Survey {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if is_test(attributes) {
            return;
        }
        match item {
            Item::Struct(item) => self.note(&item.ident.to_string(), open_fields(&item.fields), &item.attrs),
            Item::Enum(item) => {
                for variant in &item.variants {
                    let fields = open_fields(&variant.fields);
                    let fields = fields.into_iter().map(|f| format!("{}.{f}", variant.ident)).collect();
                    self.note(&item.ident.to_string(), fields, &item.attrs);
                }
            }
            _ => {}
        }
        syn::visit::visit_item(self, item);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        let of = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
        if of.is_some_and(|name| PRINTS.contains(&name.ident.to_string().as_str()))
            && let Type::Path(ty) = &*item.self_ty
            && let Some(name) = ty.path.segments.last()
        {
            self.by_hand.insert(name.ident.to_string());
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_macro(&mut self, called: &'a Macro) {
        let name = called.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default();
        let tokens = called.tokens.to_string();
        let is_event = called.path.segments.first().is_some_and(|s| s.ident == "tracing");
        // `assert!` and kin end the program; what they show is cut off by the panic hook.
        let panics = ["assert", "assert_eq", "assert_ne", "debug_assert", "panic", "unreachable"];
        if is_event {
            let text: String = tokens.split_whitespace().collect::<Vec<_>>().join(" ");
            self.shown.insert(format!("{}: {text}", self.path));
        } else if !panics.contains(&name.as_str()) {
            let texts = tokens.split('"').filter(|text| text.contains("?}"));
            self.shown.extend(texts.map(|text| format!("{}: {text}", self.path)));
        }
        syn::visit::visit_macro(self, called);
    }
}

#[test]
fn no_type_that_holds_keys_derives_what_prints_it() {
    let survey = Survey::of(&sources());
    assert!(survey.types.len() > 150 && survey.open.len() > 5, "{} types", survey.types.len());
    let allowed: BTreeMap<_, _> = DERIVED.iter().copied().collect();
    let wrong: Vec<_> = survey
        .open
        .iter()
        .filter(|(field, (_, derived))| !derived.is_empty() && !allowed.contains_key(field.as_str()))
        .map(|(field, (_, derived))| format!("{field}: {derived:?}"))
        .collect();
    assert!(wrong.is_empty(), "a secret that can be printed, or name why not in this file: {wrong:#?}");
    for (field, why) in allowed {
        assert!(
            survey.open.get(field).is_some_and(|f| !f.1.is_empty()),
            "{field} ({why}) is not there any more"
        );
    }
}

#[test]
fn what_prints_a_type_that_holds_keys_was_looked_at() {
    let survey = Survey::of(&sources());
    let holders: BTreeSet<_> = survey.open.values().map(|(name, _)| name.clone()).collect();
    let printed: BTreeSet<_> = holders.intersection(&survey.by_hand).map(String::as_str).collect();
    assert_eq!(printed, BY_HAND.iter().copied().collect(), "look at it, and add it here");
}

#[test]
fn whatever_is_shown_by_debug_was_looked_at() {
    let survey = Survey::of(&sources());
    let known: BTreeSet<_> = SHOWN.iter().map(|(text, _)| (*text).to_owned()).collect();
    let wrong: Vec<_> = survey.shown.symmetric_difference(&known).collect();
    assert!(wrong.is_empty(), "is it harmless? then add it here, or take it out: {wrong:#?}");
}

/// What is printed is searched by `Ran::of`, so nothing else may start the binary.
#[test]
fn only_the_world_starts_the_binary() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let starts = ["CARGO_BIN_EXE", "cargo_bin"];
    let found: Vec<_> = files(&tests)
        .into_iter()
        .filter(|path| !path.ends_with("world/mod.rs") && !path.ends_with("secrets/lint.rs"))
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a file");
            starts.iter().any(|start| text.contains(start))
        })
        .collect();
    assert_eq!(found, [""; 0].map(PathBuf::from), "use World::command, and Ran::of for what it prints");
}

#[test]
fn the_lint_sees_what_it_looks_for() {
    let text = r##"
        #[derive(Clone, Debug)] struct Leaky { record: Option<DynamicMessage> }
        #[derive(serde::Serialize)] enum Also { Key(Zeroizing<Vec<u8>>), None }
        #[derive(Debug)] struct Named { app_s_key: [u8; 16], count: u8 }
        struct Held(DynamicMessage);
        impl fmt::Display for Held { fn fmt(&self, f: &mut F) -> R { write!(f, "{:?}", self.0) } }
        fn talk(message: &DynamicMessage) { tracing::debug!(?message); }
        #[cfg(test)] mod tests { #[derive(Debug)] struct Fine(DynamicMessage); }
    "##;
    let items = syn::parse_file(text).expect("it parses").items;
    let survey = Survey::of(&[Source { path: "here".into(), items }]);
    let open: Vec<_> =
        survey.open.iter().filter(|(_, (_, d))| !d.is_empty()).map(|(f, _)| f.as_str()).collect();
    assert_eq!(open, ["Also.Key.0", "Leaky.record", "Named.app_s_key"]);
    assert!(survey.open.contains_key("Held.0") && survey.by_hand.contains("Held"));
    assert_eq!(survey.shown.len(), 2, "{:?}", survey.shown);
}
