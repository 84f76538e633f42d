//! What servers say of their rate limits.

use std::time::Duration;

use http::HeaderMap;

use super::MINUTE;

/// `-retry` is cut down to whole seconds, so this much may be missing.
const ROUNDED_OFF: Duration = Duration::from_secs(1);

/// No bucket counts as larger: the time in which it fills has to be a number.
const LARGEST: u32 = 1_000_000;

/// The `x-rate-limit-*` headers of an answer. A value that is no whole number counts as absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::wire) struct Limits {
    pub limit: Option<u64>,
    pub available: Option<u64>,
    pub reset: Option<u64>,
    pub retry: Option<u64>,
}

/// A bucket as an answer tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// Accesses that fit into it, at least 1.
    pub size: u32,
    /// Accesses that are left, at most `size`.
    pub available: u32,
    /// Time until it is full, in whole seconds, rounded down.
    pub reset: Option<u64>,
}

impl Limits {
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let number = |name| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        Self {
            limit: number("x-rate-limit-limit"),
            available: number("x-rate-limit-available"),
            reset: number("x-rate-limit-reset"),
            // Proxies in front of a server say `Retry-After` (RFC 9110 §10.2.3).
            retry: number("x-rate-limit-retry").or_else(|| number("retry-after")),
        }
    }

    /// True when the server told how long to wait.
    pub fn present(&self) -> bool {
        self.available.is_some() || self.retry.is_some() || self.reset.is_some()
    }

    /// The bucket, if it was told and can be true.
    pub(super) fn told(&self) -> Option<Told> {
        let size = self.limit.filter(|limit| *limit > 0)?;
        let available = self.available?.min(size);
        let fit = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).min(LARGEST);
        Some(Told { size: fit(size), available: fit(available), reset: self.reset })
    }

    /// How long the server asks a refused caller to wait, clamped to what can be true.
    pub(super) fn hold(&self) -> Duration {
        let hint = Duration::from_secs(self.retry.or(self.reset).unwrap_or_default());
        let interval = match self.limit {
            Some(limit @ 1..) => MINUTE / u32::try_from(limit).unwrap_or(u32::MAX),
            _ => ROUNDED_OFF,
        };
        hint.saturating_add(interval.min(ROUNDED_OFF)).min(MINUTE)
    }
}
