//! Payload functions.
