//! Reads a TOML tree into structs and keeps the place of every value.
//!
//! Serde would stop at the first error. This walks the whole tree, so that one pass finds every wrong type and every
//! unknown key. A section is declared once (`section!` in `raw.rs`): the declaration is the struct, its reader, the list
//! of known keys, and the reference in `docs/config.md`.

use std::{collections::BTreeSet, ops::Range};

use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::{Diagnostic, Place},
    env::{Env, OVERRIDES},
};

/// A value and where it was written.
#[derive(Clone)]
pub(super) struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Place,
}

/// One key of a section, as the reference shows it.
pub(super) struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// What the value is, in words.
    pub kind: &'static str,
    /// The default in words or TOML, or `required`.
    pub default: &'static str,
    /// A valid value in TOML.
    pub example: &'static str,
    /// What it means.
    pub text: &'static str,
    /// The keys inside, when the value is a table.
    pub keys: &'static [Key],
    /// What the section is about, when the value is a table.
    pub about: &'static str,
}

/// Something that a TOML value can be read into.
pub(super) trait Read: Sized {
    /// What the value is, in words.
    const KIND: &'static str;
    /// The keys inside, for tables.
    const KEYS: &'static [Key] = &[];
    /// What it is about, for tables.
    const ABOUT: &'static str = "";

    /// The value, or `None` after the reader was told why not. `path` is the dotted name of the key.
    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A table with known keys; declared by `section!`.
pub(super) trait Section: Sized {
    /// See [`Read::KIND`].
    const KIND: &'static str;
    /// See [`Read::KEYS`].
    const KEYS: &'static [Key];
    /// See [`Read::ABOUT`].
    const ABOUT: &'static str;

    /// Reads the known keys of the table.
    fn fill(table: &DeTable<'_>, path: &str, reader: &mut Reader<'_>) -> Self;
}

impl<S: Section> Read for S {
    const KIND: &'static str = S::KIND;
    const KEYS: &'static [Key] = S::KEYS;
    const ABOUT: &'static str = S::ABOUT;

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = value else {
            let keys: Vec<&str> = S::KEYS.iter().map(|key| key.name).collect();
            return reader.mismatch(value, at, path, &format!("a table with {}", listed(&keys)));
        };
        reader.refuse_unknown(table, S::KEYS, path);
        Some(S::fill(table, path, reader))
    }
}

/// Declares a section: a struct of `Option<At<…>>` fields and its [`Section`].
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident is $kind:literal {
            $( $(#[doc = $text:literal])+ $key:literal $field:ident: $type:ty, default $default:literal, example $example:literal; )*
        }
    ) => {
        $(#[doc = $about])+
        pub(super) struct $name {
            $( $(#[doc = $text])+ pub $field: Option<At<$type>>, )*
        }

        impl Section for $name {
            const KIND: &'static str = $kind;
            const ABOUT: &'static str = concat!($($about, "\n"),+);
            const KEYS: &'static [Key] = &[$(Key {
                name: $key,
                kind: <$type as Read>::KIND,
                default: $default,
                example: $example,
                text: concat!($($text),+),
                keys: <$type as Read>::KEYS,
                about: <$type as Read>::ABOUT,
            }),*];

            fn fill(table: &DeTable<'_>, path: &str, reader: &mut Reader<'_>) -> Self {
                Self { $( $field: reader.field(table, path, $key), )* }
            }
        }
    };
}
pub(super) use section;

/// Collects problems while a tree is read and checked.
pub(super) struct Reader<'e> {
    env: &'e Env,
    /// The problems so far.
    found: Vec<Diagnostic>,
    /// Keys that are there but could not be read, or were probably misspelt: they are not reported as missing as well.
    unread: BTreeSet<String>,
    /// True when the file has syntax errors: what seems to be missing may be in the part that could not be read.
    broken: bool,
    /// Places that may hold a secret.
    hidden: Vec<Range<usize>>,
}

impl<'e> Reader<'e> {
    /// A reader for one file.
    pub fn new(env: &'e Env, broken: bool) -> Self {
        Self { env, found: Vec::new(), unread: BTreeSet::new(), broken, hidden: Vec::new() }
    }

    /// Adds a problem.
    pub fn report(&mut self, problem: Diagnostic) {
        self.found.push(problem);
    }

    /// The environment.
    pub fn env(&self) -> &'e Env {
        self.env
    }

    /// The value of a key of `table`, or of the variable that overrides it.
    pub fn field<T: Read>(&mut self, table: &DeTable<'_>, path: &str, key: &str) -> Option<At<T>> {
        let full = join(path, key);
        for over in OVERRIDES.iter().filter(|o| o.key == full) {
            let text = self.env.get(over.variable).unwrap_or_default();
            if let Some(value) = (!text.is_empty()).then(|| over.value(&text)).flatten() {
                return self.read(&value, Place::Variable(over.variable), full);
            }
        }
        let value = table.get(key)?;
        self.read(value.get_ref(), Place::File(value.span()), full)
    }

    fn read<T: Read>(&mut self, value: &DeValue<'_>, at: Place, path: String) -> Option<At<T>> {
        let read = T::read(value, &at, &path, self);
        if read.is_none() {
            self.unread.insert(path);
        }
        read.map(|value| At { value, at })
    }

    /// Reports a value of the wrong type; always `None`.
    pub fn mismatch<T>(&mut self, value: &DeValue<'_>, at: &Place, path: &str, wanted: &str) -> Option<T> {
        let found = value.type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.report(
            Diagnostic::error(at, format!("`{path}` is not {wanted}"))
                .label(format!("this is {article} {found}; {wanted} is needed")),
        );
        None
    }

    /// Takes a value that must be there, or reports that it is missing.
    pub fn required<T>(
        &mut self,
        value: Option<T>,
        path: &str,
        key: &str,
        at: &Place,
        help: &str,
    ) -> Option<T> {
        let full = join(path, key);
        if value.is_none() && !self.broken && !self.unread.contains(&full) {
            self.report(Diagnostic::error(at, format!("`{full}` is missing")).help(help));
        }
        value
    }

    /// Keeps what stands at a place out of every diagnostic: it may be a secret.
    pub fn hide(&mut self, at: &Place) {
        if let Place::File(span) = at {
            self.hidden.push(span.clone());
        }
    }

    /// The problems, and the places that must not be shown.
    pub fn finish(self) -> (Vec<Diagnostic>, Vec<Range<usize>>) {
        (self.found, self.hidden)
    }

    /// True when a missing key may only be misspelt or unreadable: somebody was told already.
    pub fn excused(&self, full: &str) -> bool {
        self.broken || self.unread.contains(full)
    }

    fn refuse_unknown(&mut self, table: &DeTable<'_>, keys: &[Key], path: &str) {
        let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            // Below a broken header, keys seem to stand at the top, or to be headers themselves.
            let nothing_in_it = value.get_ref().as_table().is_none_or(|table| table.is_empty());
            let displaced = self.broken && path.is_empty() && nothing_in_it;
            if known.contains(&name) || displaced {
                continue;
            }
            // Only the key is wrong for sure: the value may be a secret under a misspelt name.
            if !value.get_ref().is_table() {
                self.hide(&Place::File(value.span()));
            }
            let inside = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
            let error = Diagnostic::error(&Place::File(key.span()), format!("unknown key `{name}`{inside}"));
            let home = keys.iter().find(|section| section.keys.iter().any(|key| key.name == name));
            let error = if let Some(meant) = nearest(name, &known) {
                self.unread.insert(join(path, meant));
                error.label(format!("did you mean `{meant}`?"))
            } else if let Some(home) = home {
                error.help(format!("it belongs in `{}`", join(path, home.name)))
            } else {
                error.help(format!("known keys are {}", listed(&known)))
            };
            self.report(error);
        }
    }
}

/// `path.key`, or `key` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Names for a sentence: `` `a`, `b`, `c` ``.
pub(super) fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The known name that was probably meant.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let (distance, meant) = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&plain, candidate), *candidate))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1.max(meant.chars().count() / 3)).then_some(meant)
}

impl Read for String {
    const KIND: &'static str = "string";

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => reader.mismatch(value, at, path, "a string"),
        }
    }
}

impl Read for bool {
    const KIND: &'static str = "true or false";

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::Boolean(yes) => Some(*yes),
            _ => reader.mismatch(value, at, path, "true or false"),
        }
    }
}

impl Read for u64 {
    const KIND: &'static str = "number";

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Integer(number) = value else {
            return reader.mismatch(value, at, path, "a whole number");
        };
        let parsed = Self::from_str_radix(number.as_str(), number.radix()).ok();
        if parsed.is_none() {
            reader.report(Diagnostic::error(at, format!("`{path}` must be a whole number, 0 or more")));
        }
        parsed
    }
}

impl<T: Read> Read for Vec<At<T>> {
    const KIND: &'static str = "list";
    const KEYS: &'static [Key] = T::KEYS;
    const ABOUT: &'static str = T::ABOUT;

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Array(array) = value else { return reader.mismatch(value, at, path, "a list") };
        let items = array.iter().enumerate();
        Some(
            items
                .filter_map(|(i, item)| {
                    reader.read(item.get_ref(), Place::File(item.span()), format!("{path}[{i}]"))
                })
                .collect(),
        )
    }
}

/// One string, or a list of them.
pub(super) struct Many(pub Vec<At<String>>);

impl Read for Many {
    const KIND: &'static str = "string or list of strings";

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) => {
                Some(Self(vec![At { value: text.clone().into_owned(), at: at.clone() }]))
            }
            _ => Vec::read(value, at, path, reader).map(Self),
        }
    }
}

/// A table of strings by names that the user chooses.
pub(super) struct StringMap(pub Vec<(At<String>, At<String>)>);

impl Read for StringMap {
    const KIND: &'static str = "table of strings";

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = value else {
            return reader.mismatch(value, at, path, "a table of strings");
        };
        let pairs = table.iter().filter_map(|(key, value)| {
            let name = At { value: key.get_ref().to_string(), at: Place::File(key.span()) };
            let path = join(path, &name.value);
            Some((name, reader.read(value.get_ref(), Place::File(value.span()), path)?))
        });
        Some(Self(pairs.collect()))
    }
}

/// One string, or a table of strings by names that the user chooses.
pub(super) enum OneOrMap {
    One(String),
    Map(StringMap),
}

impl Read for OneOrMap {
    const KIND: &'static str = "string or table of strings";

    fn read(value: &DeValue<'_>, at: &Place, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) => Some(Self::One(text.clone().into_owned())),
            DeValue::Table(_) => StringMap::read(value, at, path, reader).map(Self::Map),
            _ => reader.mismatch(value, at, path, "a string or a table of strings"),
        }
    }
}

/// Anything at all: a key that a later release will read.
pub(super) struct Later;

impl Read for Later {
    const KIND: &'static str = "not in this release";

    fn read(_: &DeValue<'_>, _: &Place, _: &str, _: &mut Reader<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// True when two spans share a line of `text`.
pub(super) fn same_line(text: &str, a: &Range<usize>, b: &Range<usize>) -> bool {
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
    line(a.start) == line(b.start)
}
