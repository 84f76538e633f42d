//! Field masks with the semantics of the stack's generated code (`*.pb.setters.fm.go`, `pkg/ttnpb/fieldmask_utils.go`).
//!
//! They differ from [`crate::map::path`] in what a client may trip over: a mask that names two members of a `oneof`, or
//! another member than the one that is set, is an error; and a parent that is set but empty is carried along.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, OneofDescriptor, ReflectMessage as _, Value};

use super::failure::Failure;
use crate::map::path;

/// True when one of `requested` is one of `search` or stands above it (`HasAnyField`): a request for `session` has
/// `session.keys`, a request for `session.keys` has not `session`.
pub fn has_any<R: AsRef<str>, S: AsRef<str>>(requested: &[R], search: &[S]) -> bool {
    search.iter().any(|s| has(requested, s.as_ref()))
}

/// [`has_any`] for one path.
pub fn has<R: AsRef<str>>(requested: &[R], search: &str) -> bool {
    requested.iter().any(|r| covers(r.as_ref(), search))
}

/// True when `path` is `below` or stands above it.
pub fn covers(path: &str, below: &str) -> bool {
    below.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The paths with `more` added where they are not covered yet, and without what `more` covers (`AddFields`).
pub fn with<R: AsRef<str>>(paths: &[R], more: &[&str]) -> Vec<String> {
    let mut out: Vec<String> = paths.iter().map(|p| p.as_ref().to_owned()).collect();
    for path in more {
        if !has(&out, path) {
            out.push((*path).to_owned());
        }
    }
    out.retain(|p| !more.iter().any(|m| p != m && covers(m, p)));
    out
}

/// The first segment of each path, once (`TopLevelFields`).
pub fn top_level<R: AsRef<str>>(paths: &[R]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for path in paths {
        let head = path.as_ref().split('.').next().unwrap_or_default();
        if !out.iter().any(|seen| seen == head) {
            out.push(head.to_owned());
        }
    }
    out
}

/// A new message with what `paths` name in `from` (`Filter…` of the stack).
///
/// # Errors
/// As [`set`].
pub fn filter<R: AsRef<str>>(from: &DynamicMessage, paths: &[R]) -> Result<DynamicMessage, Failure> {
    let mut out = DynamicMessage::new(from.descriptor());
    set(&mut out, Some(from), paths)?;
    Ok(out)
}

/// Takes what `paths` name from `from` into `into` (`SetFields`): replaced where it is there, removed where it is not.
///
/// # Errors
/// When paths name two members of a `oneof`, another member than the one that is set, or no field at all: the stack
/// answers these as `UNKNOWN`.
pub fn set<R: AsRef<str>>(
    into: &mut DynamicMessage,
    from: Option<&DynamicMessage>,
    paths: &[R],
) -> Result<(), Failure> {
    for (head, below) in group(paths) {
        let descriptor = into.descriptor();
        if let Some(oneof) = descriptor.oneofs().find(|o| o.name() == head && !o.is_synthetic()) {
            set_oneof(into, from, &oneof, &below)?;
        } else if let Some(field) = descriptor.get_field_by_name(head) {
            set_field(into, from, &field, &below)?;
        } else {
            return Err(Failure::plain(format!("invalid field: '{head}'")));
        }
    }
    Ok(())
}

fn set_field(
    into: &mut DynamicMessage,
    from: Option<&DynamicMessage>,
    field: &FieldDescriptor,
    below: &[&str],
) -> Result<(), Failure> {
    let source = from.filter(|from| from.has_field(field)).map(|from| from.get_field(field));
    if below.is_empty() {
        match source {
            Some(value) => into.set_field(field, value.into_owned()),
            None => into.clear_field(field),
        }
        return Ok(());
    }
    if source.is_none() && !into.has_field(field) {
        return Ok(());
    }
    match into.get_field_mut(field) {
        Value::Message(inner) => set(inner, source.as_ref().and_then(|v| v.as_message()), below),
        _ => {
            Err(Failure::plain(format!("'{}' has no subfields, but {below:?} were specified", field.name())))
        }
    }
}

fn set_oneof(
    into: &mut DynamicMessage,
    from: Option<&DynamicMessage>,
    oneof: &OneofDescriptor,
    below: &[&str],
) -> Result<(), Failure> {
    let member = |message: &DynamicMessage| oneof.fields().find(|f| message.has_field(f));
    let clear = |message: &mut DynamicMessage| oneof.fields().for_each(|f| message.clear_field(&f));
    let source = from.and_then(member);
    if below.is_empty() {
        clear(into);
        if let (Some(from), Some(field)) = (from, source) {
            into.set_field(&field, from.get_field(&field).into_owned());
        }
        return Ok(());
    }
    let groups = group(below);
    if groups.len() > 1 {
        let text = format!("more than one field specified for oneof field '{}'", oneof.name());
        return Err(Failure::plain(text));
    }
    for (name, below) in groups {
        let Some(field) = oneof.fields().find(|f| f.name() == name) else {
            return Err(Failure::plain(format!("invalid oneof field: '{}.{name}'", oneof.name())));
        };
        let differs = |set: &Option<FieldDescriptor>| set.as_ref().is_some_and(|set| *set != field);
        if !below.is_empty() {
            for (side, set) in [("source", source.clone()), ("destination", member(into))] {
                if differs(&set) {
                    let text =
                        format!("attempt to set oneof '{name}', while different oneof is set in {side}");
                    return Err(Failure::plain(text));
                }
            }
        }
        if source.as_ref() == Some(&field) || (!below.is_empty() && into.has_field(&field)) {
            set_field(into, from, &field, &below)?;
        } else {
            clear(into);
        }
    }
    Ok(())
}

/// Paths by their first segment; a path that names the segment whole wins over those below it (`_processPaths`).
fn group<R: AsRef<str>>(paths: &[R]) -> BTreeMap<&str, Vec<&str>> {
    let mut groups: BTreeMap<&str, Option<Vec<&str>>> = BTreeMap::new();
    for path in paths {
        match path.as_ref().split_once('.') {
            None => {
                groups.insert(path.as_ref(), None);
            }
            Some((head, tail)) => {
                if let Some(below) = groups.entry(head).or_insert_with(|| Some(Vec::new())) {
                    below.push(tail);
                }
            }
        }
    }
    groups.into_iter().map(|(head, below)| (head, below.unwrap_or_default())).collect()
}

/// True when nothing is stored at `path` (`FieldIsZero`). The value of a wrapper is zero also when the wrapper is there.
pub fn is_zero(message: Option<&DynamicMessage>, path: &str) -> bool {
    let value = message.and_then(|message| path::get(message, path));
    value.is_none_or(|value| match *value {
        Value::Bool(b) => !b,
        Value::U32(0) | Value::U64(0) | Value::I32(0) | Value::I64(0) | Value::EnumNumber(0) => true,
        Value::F32(f) => f == 0.0,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    fn device() -> DynamicMessage {
        let mut device = proto::message("EndDevice");
        path::set(&mut device, "mac_settings.adr.mode.static.nb_trans", Value::U32(2));
        path::touch(&mut device, "version_ids");
        device
    }

    #[test]
    fn a_mask_that_names_two_members_of_a_oneof_is_an_error() {
        let paths = ["mac_settings.adr.mode.static.nb_trans", "mac_settings.adr.mode.disabled"];
        let error = filter(&device(), &paths).expect_err("two members").message();
        assert_eq!(error, "more than one field specified for oneof field 'mode'");
        let error = filter(&device(), &["mac_settings.adr.mode.dynamic.margin"]).expect_err("another member");
        assert!(error.message().starts_with("attempt to set oneof 'dynamic'"));
        // Nothing is wrong with them where nothing is set above.
        assert!(filter(&proto::message("EndDevice"), &paths).is_ok());
    }

    #[test]
    fn an_empty_parent_is_carried_along() {
        let out = filter(&device(), &["version_ids.brand_id"]).expect("fits");
        assert!(path::has(&out, "version_ids"));
        assert!(!path::has(&filter(&device(), &["session.keys"]).expect("fits"), "session"));
    }

    #[test]
    fn setting_from_nothing_clears() {
        let mut device = device();
        set(&mut device, None, &["mac_settings.adr.mode.static"]).expect("fits");
        assert!(!path::has(&device, "mac_settings.adr.mode"));
        assert!(path::has(&device, "mac_settings.adr"));
    }

    #[test]
    fn a_parent_has_its_children_and_not_the_other_way_round() {
        assert!(has(&["session"], "session.keys"));
        assert!(!has(&["session.keys"], "session"));
        assert!(!has(&["sess"], "session"));
        assert_eq!(with(&["ids.dev_eui", "name"], &["ids"]), ["name", "ids"]);
    }
}
