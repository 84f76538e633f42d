//! `docs/journal.md` against the code: every table and column, every event and step, and examples that can be read.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use rusqlite::Connection;
use serde::de::DeserializeOwned;
use stackferry::{
    model::device::Component,
    step::{
        Event, Step, Strategy,
        belonging::{ItemEvent, ItemStep},
    },
};

use super::{
    CONFIG,
    image::{self, Image},
};

const BEGIN: &str = "<!-- made from src/step/event.rs: STACKFERRY_BLESS=1 cargo test journal::page -->\n";
const END: &str = "<!-- end -->\n";

fn path(of: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn page() -> String {
    fs::read_to_string(path("docs/journal.md")).expect("there")
}

/// A variant or field with its documentation, and what is in it.
#[derive(Debug, Default)]
struct Item {
    name: String,
    about: String,
    fields: Vec<Item>,
}

/// The items of a type of the source, by their indentation, which `cargo fmt` keeps.
fn items(source: &str, head: &str) -> Vec<Item> {
    let body = source.split_once(&format!("{head} {{\n")).unwrap_or_else(|| panic!("no {head}")).1;
    let body = body.split("\n}\n").next().expect("a part");
    let mut items: Vec<Item> = Vec::new();
    let mut about = String::new();
    for line in body.lines() {
        let (text, depth) = (line.trim(), line.len() - line.trim_start().len());
        if let Some(words) = text.strip_prefix("///") {
            about = format!("{about} {}", words.trim());
            continue;
        }
        let name: String = text
            .trim_start_matches("pub ")
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if name.is_empty() {
            continue;
        }
        let item = Item { name, about: std::mem::take(&mut about).trim().to_owned(), fields: Vec::new() };
        match (depth, items.last_mut()) {
            (4, _) => items.push(item),
            (_, Some(variant)) => variant.fields.push(item),
            _ => {}
        }
    }
    items
}

/// `AwaitSeen` and `await_seen` as serde writes them here.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(c.to_lowercase());
    }
    text.replace('_', "-")
}

fn table(head: &str, items: &[Item], also: impl Fn(&Item) -> String) -> String {
    let mut text = format!("{head}\n");
    for item in items {
        writeln!(text, "| `{}` | {}{} |", kebab(&item.name), item.about, also(item)).expect("a text");
    }
    text
}

/// The generated part of the page.
fn made() -> String {
    let source = fs::read_to_string(path("src/step/event.rs")).expect("there");
    let fields = |event: &Item| {
        let fields = event.fields.iter().map(|f| format!(" `{}`: {}", f.name, f.about));
        fields.collect::<String>()
    };
    let two = |what: &str| format!("| {what} | meaning |\n|---|---|");
    let mut text = String::from(BEGIN);
    text += &table(&two("`event`"), &items(&source, "pub enum Event"), fields);
    text += "\nThe `step` of an intent, its result or its failure:\n\n";
    let with = |step: &Item| {
        if is_of_component(&source, &step.name) { " Of one record: `{\"STEP\": \"ns\"}`." } else { "" }
    };
    text += &table(&two("`step`"), &items(&source, "pub enum Step"), |s| {
        with(s).replace("STEP", &kebab(&s.name))
    });
    text += "\nThe `recipe`, and the strategies in it:\n\n";
    text += &table(&two("in `recipe`"), &items(&source, "pub struct Recipe"), |_| String::new());
    text +=
        &format!("\n{}", table(&two("`strategy`"), &items(&source, "pub enum Strategy"), |_| String::new()));
    let source = fs::read_to_string(path("src/step/belonging.rs")).expect("there");
    text += "\nThe events of an application itself, about what it has besides its devices:\n\n";
    text += &table(&two("`event`"), &items(&source, "pub enum ItemEvent"), fields);
    text += "\nTheir `step`:\n\n";
    text += &table(&two("`step`"), &items(&source, "pub enum ItemStep"), |_| String::new());
    text + END
}

fn is_of_component(source: &str, step: &str) -> bool {
    source.contains(&format!("    {step}(Component),"))
}

/// The names that serde takes, from its own mouth.
fn known<T: DeserializeOwned>(json: &str) -> BTreeSet<String> {
    let error = serde_json::from_str::<T>(json).err().expect("no such name").to_string();
    let names = error.split_once("expected ").expect("it lists the names").1;
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_event_and_step_is_on_the_page() {
    let page = page();
    if std::env::var_os("STACKFERRY_BLESS").is_some() {
        let (before, rest) = page.split_once(BEGIN).expect("the mark of the beginning");
        let after = rest.split_once(END).expect("the mark of the end").1;
        fs::write(path("docs/journal.md"), format!("{before}{}{after}", made())).expect("writes");
    }
    assert!(
        self::page().contains(&made()),
        "docs/journal.md is not current: STACKFERRY_BLESS=1 cargo test journal::page"
    );
    // The source is read line by line, so that it is held against what the program really takes.
    let source = fs::read_to_string(path("src/step/event.rs")).expect("there");
    let named = |head| items(&source, head).iter().map(|i| kebab(&i.name)).collect::<BTreeSet<_>>();
    assert_eq!(named("pub enum Event"), known::<Event>("{\"event\":\"?\"}"));
    assert_eq!(named("pub enum Step"), known::<Step>("\"?\""));
    assert_eq!(named("pub enum Strategy"), known::<Strategy>("\"?\""));
    let source = fs::read_to_string(path("src/step/belonging.rs")).expect("there");
    let named = |head| items(&source, head).iter().map(|i| kebab(&i.name)).collect::<BTreeSet<_>>();
    assert_eq!(named("pub enum ItemEvent"), known::<ItemEvent>("{\"event\":\"?\"}"));
    assert_eq!(named("pub enum ItemStep"), known::<ItemStep>("\"?\""));
    assert!(
        items(&source, "pub enum ItemEvent").iter().all(|i| !i.about.is_empty() && !i.about.contains('|'))
    );
    let source = fs::read_to_string(path("src/step/event.rs")).expect("there");
    for component in known::<Component>("\"?\"") {
        assert!(self::page().contains(&format!("`{component}`")), "{component}");
    }
    assert!(items(&source, "pub enum Event").iter().all(|i| !i.about.is_empty() && !i.about.contains('|')));
}

#[test]
fn the_examples_on_the_page_are_events() {
    let page = page();
    let examples = page.split_once("```json\n").expect("examples").1.split("```").next().expect("a part");
    let mut kinds = BTreeSet::new();
    for line in examples.lines() {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(serde_json::to_string(&event).expect("JSON"), line, "as the program writes it");
        kinds.insert(line.split('"').nth(3).expect("a kind").to_owned());
    }
    assert!(kinds.len() > 5, "{kinds:?}");
}

/// Tables, columns, kinds and keys of a real journal are all on the page.
#[test]
fn everything_in_a_real_journal_is_on_the_page() {
    let page = page();
    let files = image::of_two_runs(&[1, 4, 2], CONFIG, None).pop().expect("at the end");
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("test.journal");
    image::put(&files, &journal);
    let database = Connection::open(&journal).expect("opens");
    let list = |sql: &str| -> Vec<String> {
        let mut statement = database.prepare(sql).expect("prepares");
        statement.query_map([], |r| r.get(0)).expect("reads").collect::<Result<_, _>>().expect("reads")
    };
    let mut named = list("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'");
    named.extend(list(
        "SELECT c.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table'",
    ));
    named.extend(list("SELECT DISTINCT kind FROM entry WHERE device IS NOT NULL"));
    named.extend(list(
        "SELECT DISTINCT replace(replace(replace(kind, 'pin/', ''), 'fleet-lab to fleet-lab', 'SOURCE to TARGET'),
         'meta/application/fleet-lab', 'meta/application/<ID on the target>') FROM entry WHERE device IS NULL",
    ));
    for name in &named {
        assert!(page.contains(&format!("`{name}`")), "`{name}` is not on the page");
    }
    assert!(named.len() > 25, "{named:?}");
    // Seals hold what the page says they hold.
    for entry in Image::new(files).contents.entries.iter().filter(|e| e.sealed) {
        let sealed: serde_json::Value = serde_json::from_slice(&entry.plain).expect("JSON");
        for key in sealed.as_object().expect("an object").keys() {
            assert!(page.contains(&format!("`{key}`")), "`{key}` of {} is not on the page", entry.kind);
        }
    }
}

/// The commands that the page gives to people.
#[test]
fn the_commands_of_the_page_work() {
    let page = page();
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("acme.journal");
    image::put(&image::of_two_runs(&[1], CONFIG, None).pop().expect("at the end"), &journal);
    let commands = page.split("```sh\n").skip(1).filter_map(|part| part.split("```").next());
    let mut tried = 0;
    for line in commands.flat_map(str::lines).filter(|line| line.starts_with("sqlite3 ")) {
        let sql = line.split('"').nth(1).expect("a statement in quotes");
        let database = Connection::open(&journal).expect("opens");
        let mut statement = database.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let rows = statement.query_map([], |_| Ok(())).expect("reads").count();
        assert!(rows > 0, "{sql}");
        tried += 1;
    }
    assert!(tried >= 4, "{tried} commands");
}
