//! The losses that a configuration may allow, by the names of the findings that report them.

use std::sync::LazyLock;

use crate::plan::finding::Kind;

/// Name of every finding that stops a device unless `transform.allow-loss` names it, and what is lost; sorted by name.
pub static LOSSES: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let mut losses: Vec<_> =
        Kind::ALL.iter().filter(|k| !k.loss().is_empty()).map(|k| (k.name(), k.loss())).collect();
    losses.sort_unstable();
    losses
});

/// The listed name that equals `name`.
pub fn known_loss(name: &str) -> Option<&'static str> {
    LOSSES.iter().map(|(known, _)| *known).find(|known| *known == name)
}
