//! Rights on an application that are given to others (`rights.proto`, `pkg/ttnpb/rights.go`).

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::Facts;
use crate::{
    map::path,
    plan::finding::{Finding, Kind},
    proto,
};

/// Every right on everything.
pub const ALL: &str = "RIGHT_ALL";
/// Every right on an application.
const APPLICATION_ALL: &str = "RIGHT_APPLICATION_ALL";
/// What `RIGHT_APPLICATION_LINK` implies.
const LINK: [&str; 3] =
    ["RIGHT_APPLICATION_INFO", "RIGHT_APPLICATION_TRAFFIC_READ", "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE"];

/// A list of these rights.
pub fn value<'n>(names: impl IntoIterator<Item = &'n str>) -> Value {
    let rights = proto::enumeration("Right");
    let numbers = names.into_iter().filter_map(|name| rights.get_value_by_name(name));
    Value::List(numbers.map(|right| Value::EnumNumber(right.number())).collect())
}

/// The rights in a message that has a list of them, by name; those without a name in this version are not among them.
pub fn names(message: &DynamicMessage) -> Vec<String> {
    let rights = proto::enumeration("Right");
    let numbers = numbers(message).into_iter();
    numbers.filter_map(|number| rights.get_value(number)).map(|right| right.name().to_owned()).collect()
}

fn numbers(message: &DynamicMessage) -> BTreeSet<i32> {
    let list = path::get(message, "rights");
    list.iter().flat_map(|v| v.as_list().unwrap_or_default()).filter_map(Value::as_enum_number).collect()
}

/// Rights are a set: their order in a list says nothing, nor does one that stands there twice.
pub fn in_order(message: &mut DynamicMessage) {
    if path::exists(&message.descriptor(), "rights") {
        let numbers = numbers(message).into_iter().map(Value::EnumNumber).collect();
        path::set(message, "rights", Value::List(numbers));
    }
}

/// The finding for rights that our key on the target cannot give, as it does not have them. What it has beyond an application
/// no server tells (`ListRights`): whether it may give `RIGHT_ALL` only the attempt shows.
pub fn not_to_give(wanted: &[String], facts: &Facts) -> Option<Finding> {
    let has = facts.rights.as_ref()?;
    let has_all = [ALL, APPLICATION_ALL].iter().any(|all| has.contains(*all));
    let is_of_application = |right: &&str| right.starts_with("RIGHT_APPLICATION_");
    let needed = wanted.iter().flat_map(|right| match right.as_str() {
        ALL => vec![APPLICATION_ALL],
        "RIGHT_APPLICATION_LINK" => [right.as_str()].into_iter().chain(LINK).collect(),
        other => vec![other],
    });
    let missing: BTreeSet<_> =
        needed.filter(is_of_application).filter(|right| !has_all && !has.contains(*right)).collect();
    if missing.is_empty() {
        return None;
    }
    let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
    let text = format!("the API key of the target cannot give what it does not have itself: {missing}");
    Some(
        Finding::new(Kind::Rights, text)
            .fix(format!("use a key of the target that has {missing}, or give these rights by hand there")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(wanted: &[&str], has: &[&str]) -> String {
        let facts =
            Facts { rights: Some(has.iter().map(|r| format!("RIGHT_{r}")).collect()), ..Facts::default() };
        let wanted: Vec<_> = wanted.iter().map(|r| format!("RIGHT_{r}")).collect();
        not_to_give(&wanted, &facts).map(|f| f.text).unwrap_or_default()
    }

    #[test]
    fn what_a_key_does_not_have_it_cannot_give() {
        assert_eq!(missing(&["APPLICATION_INFO"], &["APPLICATION_INFO"]), "");
        assert_eq!(missing(&["APPLICATION_INFO", "ALL"], &["APPLICATION_ALL"]), "");
        assert_eq!(missing(&["GATEWAY_INFO"], &[]), "", "not a right on an application: the server will say");
        assert!(
            missing(&["APPLICATION_DELETE"], &["APPLICATION_INFO"]).ends_with(": RIGHT_APPLICATION_DELETE")
        );
        assert!(missing(&["APPLICATION_ALL"], &["APPLICATION_INFO"]).ends_with(": RIGHT_APPLICATION_ALL"));
        let link = missing(&["APPLICATION_LINK"], &["APPLICATION_LINK", "APPLICATION_INFO"]);
        assert!(
            link.ends_with(": RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE, RIGHT_APPLICATION_TRAFFIC_READ"),
            "{link}"
        );
    }

    #[test]
    fn rights_are_a_set() {
        let mut message = proto::message("Collaborator");
        path::set(&mut message, "rights", Value::List([7, 5, 7].map(Value::EnumNumber).into()));
        in_order(&mut message);
        assert_eq!(
            path::get(&message, "rights").expect("rights").into_owned(),
            Value::List([5, 7].map(Value::EnumNumber).into())
        );
    }
}
