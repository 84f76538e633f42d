//! Ctrl-C: the first lets the devices in hand finish, the second stops at once.

use crate::engine::{
    event::{Event, Sink},
    run::Stop,
};

/// Listens for SIGINT and SIGTERM until the returned guard is dropped.
pub fn listen(stop: &Stop, events: &Sink) -> Guard {
    let (stop, events) = (stop.clone(), events.clone());
    Guard(tokio::spawn(async move {
        if interrupt().await {
            stop.drain.cancel();
            events.send(Event::Draining);
        }
        drop(events);
        if interrupt().await {
            stop.abort.cancel();
        }
    }))
}

/// Stops listening when dropped.
#[derive(Debug)]
pub struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for SIGINT or SIGTERM.
pub async fn wait() {
    interrupt().await;
}

/// True when a signal came; false when signals cannot be heard here.
async fn interrupt() -> bool {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return false };
        tokio::select! {
            heard = tokio::signal::ctrl_c() => heard.is_ok(),
            heard = terminate.recv() => heard.is_some(),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.is_ok()
}
