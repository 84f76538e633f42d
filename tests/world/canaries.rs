//! Every secret that the servers of a test have ever held is a canary (S7): whatever the binary prints in any test, and
//! every file that it leaves, is searched for all of them.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    hash::{BuildHasher as _, RandomState},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use stackferry::{
    model::secret::is_secret_path,
    rehearsal::{Settings, Tts, load, store::Store},
};

use super::{
    fixture,
    search::{Found, SHORTEST, Search, Secret, forms},
};

/// The secrets in a message.
pub fn collect(message: &DynamicMessage, name: &str, out: &mut Vec<Secret>) {
    within(message, &mut name.to_owned(), false, out);
}

/// `name` is lent: it is put together for every stored change, and kept for few. Fields below which there can be no secret
/// are left out.
fn within(message: &DynamicMessage, name: &mut String, is_secret: bool, out: &mut Vec<Secret>) {
    for (field, field_is_secret) in &*may_hold(&message.descriptor(), is_secret) {
        if message.has_field(field) {
            let parent = name.len();
            name.push('.');
            name.push_str(field.name());
            in_value(&message.get_field(field), name, *field_is_secret, out);
            name.truncate(parent);
        }
    }
}

type Fields = Arc<Vec<(FieldDescriptor, bool)>>;

/// The fields of a message that are, or may hold, secrets, and whether all below them is secret.
fn may_hold(message: &MessageDescriptor, is_secret: bool) -> Fields {
    static KNOWN: LazyLock<Mutex<HashMap<(String, bool), Fields>>> = LazyLock::new(Mutex::default);
    let key = (message.full_name().to_owned(), is_secret);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let fields = known.entry(key).or_insert_with(|| {
        // The label names a key encryption key; it is shown on purpose.
        let secret = |field: &FieldDescriptor| {
            (is_secret || is_secret_path(field.name())) && field.name() != "kek_label"
        };
        let fields = message.fields().map(|field| (secret(&field), field));
        let fields = fields.filter(|(secret, field)| *secret || has_secrets(field, &mut HashSet::new()));
        Arc::new(fields.map(|(secret, field)| (field, secret)).collect())
    });
    Arc::clone(fields)
}

/// True when a field somewhere below this one is secret.
fn has_secrets(field: &FieldDescriptor, seen: &mut HashSet<String>) -> bool {
    let Kind::Message(message) = field.kind() else { return false };
    seen.insert(message.full_name().to_owned())
        && message.fields().any(|field| is_secret_path(field.name()) || has_secrets(&field, seen))
}

fn in_value(value: &Value, name: &mut String, is_secret: bool, out: &mut Vec<Secret>) {
    match value {
        Value::Message(message) => within(message, name, is_secret, out),
        Value::List(items) => items.iter().for_each(|item| in_value(item, name, is_secret, out)),
        Value::Map(items) => items.values().for_each(|item| in_value(item, name, is_secret, out)),
        Value::Bytes(bytes) if is_secret => out.push(Secret::new(name.as_str(), bytes.to_vec())),
        Value::String(text) if is_secret => out.push(Secret::new(name.as_str(), text.as_bytes())),
        _ => {}
    }
}

/// The secrets of an API key: all of it, all but its end, and its last part.
pub fn api_key(name: &str, key: &str) -> Vec<Secret> {
    let last = key.rsplit('.').next().unwrap_or_default();
    vec![
        Secret::new(format!("{name} API key"), key),
        Secret::new(format!("{name} API key, but for its end"), &key[..key.len().min(60)]),
        Secret::new(format!("{name} API key's secret"), last),
    ]
}

/// What the fixture holds: the same in most tests, so its automaton is built once.
static FIXTURE: LazyLock<(HashSet<Vec<u8>>, Search)> = LazyLock::new(|| {
    let tts = Tts::new(Settings::default()).expect("memory");
    load(&tts, Some(&fixture("tts-fleet-100.jsonl")), Some(&fixture("tts-fleet-application.json")))
        .expect("the fixture loads");
    let mut secrets = Vec::new();
    for (table, entries) in tts.store().tables() {
        for (key, message) in entries {
            collect(message, &format!("fixture {table:?} {key}"), &mut secrets);
        }
    }
    secrets.extend(of_fixture_files());
    let mut known = HashSet::new();
    secrets.retain(|secret| is_worth_a_search(&secret.bytes) && known.insert(secret.bytes.clone()));
    note(&secrets);
    (known, Search::new(&secrets))
});

/// Long enough to be told from chance, and not the zeros by which V2 says that there is no key.
fn is_worth_a_search(bytes: &[u8]) -> bool {
    bytes.len() >= SHORTEST && bytes.iter().any(|b| *b != 0)
}

/// The keys in all files of fixtures, whether a test loads them or not.
fn of_fixture_files() -> Vec<Secret> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut secrets = Vec::new();
    for path in ["config", "tests"].into_iter().flat_map(|folder| files_below(&root.join(folder))) {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["json", "jsonl"].contains(&extension) {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let text = fs::read_to_string(&path).expect("a fixture");
            let values = serde_json::Deserializer::from_str(&text).into_iter();
            values.for_each(|value| of_json(&value.expect("JSON"), &name, false, &mut secrets));
        }
    }
    secrets
}

/// Keys of 16 bytes in hexadecimal or base64, and API keys.
fn of_json(value: &serde_json::Value, name: &str, is_secret: bool, out: &mut Vec<Secret>) {
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(field, value)| {
            of_json(value, &format!("{name} {field}"), is_secret || is_secret_path(field), out);
        }),
        serde_json::Value::Array(items) => items.iter().for_each(|item| of_json(item, name, is_secret, out)),
        serde_json::Value::String(text) if text.starts_with("NNSXS.") => {
            out.push(Secret::new(name, text.as_str()));
        }
        serde_json::Value::String(text) if is_secret => {
            let key = hex::decode(text).ok().or_else(|| BASE64_STANDARD.decode(text).ok());
            out.extend(key.filter(|key| key.len() == 16).map(|key| Secret::new(name, key)));
        }
        _ => {}
    }
}

/// The secrets of the fixture.
pub fn of_fixture() -> Vec<Vec<u8>> {
    FIXTURE.0.iter().cloned().collect()
}

/// The secrets of one world.
#[derive(Default)]
pub struct Canaries(Mutex<Known>);

#[derive(Default)]
struct Known {
    seen: HashSet<Vec<u8>>,
    all: Vec<Secret>,
    /// How many of `all` the searches know.
    searched: usize,
    searches: Vec<Search>,
    leaks_on_purpose: bool,
    plants: bool,
}

thread_local! {
    /// The worlds of the test that runs on this thread.
    static HERE: RefCell<Vec<Weak<Canaries>>> = const { RefCell::new(Vec::new()) };
}

impl Canaries {
    /// The canaries of a new world; what the binary prints on this thread is searched for them from now on.
    pub fn here() -> Arc<Self> {
        let canaries = Arc::new(Self::default());
        HERE.with_borrow_mut(|here| {
            here.retain(|world| world.strong_count() > 0);
            here.push(Arc::downgrade(&canaries));
        });
        canaries
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More secrets. Those too short to be told from chance are left out.
    pub fn add(&self, secrets: Vec<Secret>) {
        let mut known = self.lock();
        for secret in secrets {
            let news = is_worth_a_search(&secret.bytes) && !FIXTURE.0.contains(&secret.bytes);
            if news && known.seen.insert(secret.bytes.clone()) {
                known.all.push(secret);
            }
        }
    }

    /// Learns every secret that is in a store or comes into it.
    pub fn watch(self: &Arc<Self>, side: &'static str, store: &mut Store) {
        for (table, entries) in store.tables() {
            for (key, message) in entries {
                let mut secrets = Vec::new();
                collect(message, &format!("{side} {table:?} {key}"), &mut secrets);
                self.add(secrets);
            }
        }
        let canaries = Arc::clone(self);
        store.watch(move |tables, change| {
            let Some(now) = tables.get(&change.table).and_then(|entries| entries.get(change.key)) else {
                return;
            };
            let (mut secrets, name) = (Vec::new(), format!("{side} {:?} {}", change.table, change.key));
            collect(now, &name, &mut secrets);
            canaries.add(secrets);
        });
    }

    /// This world leaks on purpose, and its test searches by itself.
    pub fn leak_on_purpose(&self) {
        self.lock().leaks_on_purpose = true;
    }

    /// The test of this world plants secrets to be found: they do not count.
    pub fn plant(&self) {
        self.lock().plants = true;
    }

    /// True when what is found was put there to be found.
    fn is_meant(&self) -> bool {
        let known = self.lock();
        known.plants || known.leaks_on_purpose
    }

    /// How many secrets are known, those of the fixture among them.
    pub fn count(&self) -> usize {
        FIXTURE.0.len() + self.lock().all.len()
    }

    /// Every canary in `text`.
    pub fn find(&self, text: &[u8]) -> Found {
        let mut known = self.lock();
        if known.searched < known.all.len() {
            // Each search is a pass over the text: they are few.
            if known.searches.len() >= 4 {
                known.searches.clear();
                known.searched = 0;
            }
            note(&known.all[known.searched..]);
            let search = Search::new(&known.all[known.searched..]);
            known.searches.push(search);
            known.searched = known.all.len();
        }
        known.searches.iter().chain([&FIXTURE.1]).flat_map(|search| search.find(text)).collect()
    }

    /// What was found in the files of a folder, and which of them others may read: all files that the binary makes are
    /// searched but the key file, and what the test wrote or the user asked for (configurations, fleets, states of
    /// embedded stacks).
    pub fn find_in_files(&self, folder: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        let files = files_below(folder);
        let is_key = |path: &Path| path.extension().is_some_and(|e| e == "key");
        for key in files.iter().filter(|path| is_key(path)) {
            self.add(fs::read(key).map(|bytes| seal_key(&bytes)).unwrap_or_default());
        }
        for path in files {
            let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            let private = name.contains(".journal");
            let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
            if private && mode & 0o077 != 0 {
                wrong.push(format!("{name} can be read by others: {:o}", mode & 0o7777));
            }
            if is_key(&path) || asked_for(&path) {
                continue;
            }
            // A killed process's files may go while we look.
            let Ok(bytes) = fs::read(&path) else { continue };
            let found = self.find(&bytes);
            if !self.is_meant() {
                count(|totals| (totals.files += 1, totals.bytes += bytes.len(), totals.found += found.len()));
            }
            if !found.is_empty() {
                wrong.push(format!("{name} holds {found:?}"));
            }
        }
        wrong
    }
}

/// Files that hold secrets because somebody wants them to.
fn asked_for(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["toml", "jsonl", "json", "csv", "state", "pem"].contains(&extension)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

/// What a key file holds.
pub fn seal_key(file: &[u8]) -> Vec<Secret> {
    let text = String::from_utf8_lossy(file).trim().to_owned();
    let raw = [hex::decode(&text).ok(), BASE64_STANDARD.decode(&text).ok()];
    let mut secrets: Vec<_> = raw.into_iter().flatten().map(|raw| Secret::new("seal key", raw)).collect();
    secrets.push(Secret::new("seal key file", text));
    secrets
}

/// Searches what the binary printed for the canaries of all worlds of this thread; without a world, for the fixture's.
#[track_caller]
pub fn hear(stream: &str, text: &[u8]) {
    let worlds: Vec<_> = HERE.with_borrow(|here| here.iter().filter_map(Weak::upgrade).collect());
    if worlds.iter().any(|world| world.lock().leaks_on_purpose) {
        return;
    }
    let mut found: Found = worlds.iter().flat_map(|world| world.find(text)).collect();
    if worlds.is_empty() {
        found = FIXTURE.1.find(text);
    }
    if !worlds.iter().any(|world| world.is_meant()) {
        count(|totals| (totals.outputs += 1, totals.bytes += text.len(), totals.found += found.len()));
    }
    assert!(found.is_empty(), "{stream} holds {found:?}");
}

/// Searches the files of a world when it ends.
pub struct AtTheEnd {
    pub canaries: Arc<Canaries>,
    pub folder: PathBuf,
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if self.canaries.lock().leaks_on_purpose || std::thread::panicking() {
            return;
        }
        let wrong = self.canaries.find_in_files(&self.folder);
        write_totals();
        assert!(wrong.is_empty(), "a file of the test's folder: {wrong:?}");
    }
}

/// What was searched in this process.
#[derive(Default)]
struct Totals {
    secrets: HashSet<u64>,
    forms: BTreeSet<&'static str>,
    outputs: usize,
    files: usize,
    bytes: usize,
    found: usize,
}

static TOTALS: LazyLock<Mutex<Totals>> = LazyLock::new(Mutex::default);
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn count<T>(change: impl FnOnce(&mut Totals) -> T) {
    change(&mut TOTALS.lock().unwrap_or_else(PoisonError::into_inner));
}

fn note(secrets: &[Secret]) {
    count(|totals| {
        totals.secrets.extend(secrets.iter().map(|secret| HASHER.hash_one(&secret.bytes)));
        totals.forms.extend(forms(b"a canary\xFF\xFE\xFD in all forms").into_iter().map(|(form, _)| form));
    });
}

/// One line for the output of CI: libtest shows nothing of tests that pass. `cat target/tmp/secrets-*.txt`.
fn write_totals() {
    let Some(binary) = std::env::current_exe().ok().and_then(|exe| {
        let stem = exe.file_stem()?.to_str()?;
        Some(stem.rsplit_once('-').map_or(stem, |(name, _)| name).to_owned())
    }) else {
        return;
    };
    count(|totals| {
        let Totals { secrets, forms, outputs, files, bytes, found } = totals;
        let line = format!(
            "secrets ({binary}): {} secrets in {} forms searched in {outputs} outputs and {files} files ({} MB), {found} found\n",
            secrets.len(),
            forms.len(),
            *bytes / 1_000_000
        );
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("secrets-{binary}.txt"));
        fs::write(file, line).expect("a file of the build folder");
    });
}
