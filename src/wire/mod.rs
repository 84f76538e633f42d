//! Transport: channels, TLS, throttle, retry and status. Only this module knows tonic's channels.

pub mod codec;
