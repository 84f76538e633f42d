//! The reference of the configuration, `docs/config.md`, from the declarations of the sections.

use std::fmt::Write as _;

use super::{
    env::OVERRIDES,
    loss::LOSSES,
    raw::RawConfig,
    read::{Key, Section as _},
};

const INTRODUCTION: &str = "\
# The configuration

<!-- Generated from src/config; `STACKFERRY_BLESS=1 cargo test config::reference` writes it anew. -->

One TOML file describes one migration. [config/](../config) has worked examples. Relative paths start at the folder of the
file. Every problem of a file is reported at once, with line and column; nothing is connected to before all are solved.

A secret is never in the file: `{ env = \"NAME\" }`, `{ file = \"PATH\" }` or `{ command = [\"PROGRAM\", \"ARGUMENT\"] }` say
where it is. A literal secret is refused, and is not shown in the error. A file of a secret is one line of text that only its
owner can read (`chmod 600`), who is this user or root; its group may read it when the owner is another user, as where a
secret is mounted into a container (Kubernetes: `defaultMode: 0440` with `fsGroup`, or 0400). Links are followed.
";

/// The whole reference as Markdown.
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for key in RawConfig::KEYS {
        section(&mut text, key.name, key, 2);
    }
    text.push_str("\n## Allowed losses\n\n");
    text.push_str(
        "Names for `transform.allow-loss`. Each is a finding that stops a device, or the one thing around the devices that it is about, unless it is allowed.\n\n",
    );
    text.push_str("| name | what is lost |\n|---|---|\n");
    for (name, lost) in LOSSES.iter() {
        let _ = writeln!(text, "| `{name}` | {lost} |");
    }
    text.push_str("\n## Environment variables\n\n");
    text.push_str(
        "Each takes the place of a key of the file. Those of a side count only when the file has its table, which may be empty; \
         `FREQUENCY_PLAN_ID` counts only with V2 as the source. An empty one is passed over.\n\n",
    );
    text.push_str("| variable | key |\n|---|---|\n");
    for over in OVERRIDES {
        let _ = writeln!(text, "| `{}` | `{}` |", over.variable, over.key);
    }
    text
}

/// A table with its keys; tables inside follow as sections, inline tables as rows.
fn section(text: &mut String, path: &str, key: &Key, level: usize) {
    let list = key.kind == "list";
    let header = if list { format!("[[{path}]]") } else { format!("[{path}]") };
    let _ = write!(text, "\n{} `{header}`\n\n", "#".repeat(level));
    text.push_str(&flowing(if key.about.is_empty() { key.text } else { key.about }));
    text.push('\n');
    if let Some(first) = described_before(path) {
        let _ = writeln!(text, "\nThe same keys as `[{first}]`.");
        return;
    }
    let (tables, rows): (Vec<&Key>, Vec<&Key>) = key.keys.iter().partition(|key| is_section(key));
    if !rows.is_empty() {
        text.push_str("\n| key | type | default | example | meaning |\n|---|---|---|---|---|\n");
        for key in rows {
            row(text, "", key);
        }
    }
    for table in tables {
        section(text, &format!("{path}.{}", table.name), table, level + 1);
    }
}

/// Both sides have the same keys; they are described once.
fn described_before(path: &str) -> Option<String> {
    let stack = path.strip_prefix("target.").filter(|stack| matches!(*stack, "tts" | "rehearsal"))?;
    Some(format!("source.{stack}"))
}

/// True for tables that have their own header in a file, but for those that are not in this release.
fn is_section(key: &Key) -> bool {
    matches!(key.kind, "table" | "list") && !key.keys.is_empty()
}

fn row(text: &mut String, prefix: &str, key: &Key) {
    let name = format!("{prefix}{}", key.name);
    let example = if key.example.is_empty() { String::new() } else { format!("`{}`", key.example) };
    let meaning = flowing(key.text);
    let _ = writeln!(text, "| `{name}` | {} | {} | {example} | {meaning} |", key.kind, key.default);
    // Where a secret is, is said once in the introduction.
    if key.kind == "inline table" && !name.ends_with("-key") {
        for inner in key.keys {
            row(text, &format!("{name}."), inner);
        }
    }
}

/// Doc comments without their leading spaces and line ends.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    #[test]
    fn the_reference_in_docs_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
        if env::var_os("STACKFERRY_BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, markdown()).expect("written");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/config.md is not current: STACKFERRY_BLESS=1 cargo test config::reference"
        );
    }
}
