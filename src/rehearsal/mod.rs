//! The embedded The Things Stack and The Things Network Stack V2: real gRPC servers with the real rules, for rehearsals,
//! the quickstart and the tests; and simulated devices with an auditor.

pub mod air;
pub mod auditor;
mod calls;
pub mod device;
pub mod fleet;
pub mod lorawan;
mod service;
pub mod store;
mod ttn_v2;
mod tts;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use calls::{CallInfo, Fault, Reply};
pub use fleet::{LoadError, load};
pub use service::{Served, ServerTls, serve};
pub use ttn_v2::{AccessKey, ServedTtnV2, TtnV2, V2Application, V2LoadError, V2Settings, serve_ttn_v2};
pub use tts::{ADMIN, CupsAnswer, EntityKind, Failure, RateLimit, Settings, Tts};

/// Random bytes. The operating system's source does not fail on the systems that this runs on; zeros stand in if so.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [0; N];
    }
    bytes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panics with a lock held does not take the server down: every change is one statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
