//! Exit codes: one table, printed by `--help` and in the docs.

use std::process::ExitCode;

use crate::{
    engine::event::{Outcome, Summary},
    wire,
};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for is done; devices may wait for something that ends by itself.
    Done,
    /// Something failed that no other code names.
    Failed,
    /// The command line or the configuration is wrong, or the plan of `run --plan` is stale; nothing was done.
    Usage,
    /// Some devices, or things around them, were not moved, or differ: the summary says which and why.
    Devices,
    /// A server cannot be reached, or TLS failed.
    Unreachable,
    /// A server does not accept the API key, or it lacks rights.
    Denied,
    /// The journal cannot be used, is locked by another run, or was made for another configuration; or another run has an
    /// application.
    Journal,
    /// Ctrl-C; the same command goes on.
    Interrupted,
}

/// The table.
pub const TABLE: &str = "\
Exit codes:
  0    done; devices may wait for something that ends by itself
  1    something failed that no other code names
  2    the command line or the configuration is wrong, or a plan is stale; nothing was done
  3    some devices were not moved, or differ: the summary says which and why
  4    a server cannot be reached, or TLS failed
  5    a server does not accept the API key, or it lacks rights
  6    the journal cannot be used, is locked, or belongs to another configuration; or another
       run works on an application
  130  interrupted; the same command goes on";

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Devices => 3,
            Self::Unreachable => 4,
            Self::Denied => 5,
            Self::Journal => 6,
            Self::Interrupted => 130,
        }
    }

    /// The code of a run.
    pub fn of(summary: &Summary) -> Self {
        let some = |which: fn(&Outcome) -> bool| {
            summary.count(which) > 0
                || summary
                    .belongings
                    .iter()
                    .chain(&summary.gateways.outcomes)
                    .chain(&summary.gateways.cleared)
                    .any(|(_, outcome)| which(outcome))
        };
        if summary.locked {
            Self::Journal
        } else if summary.interrupted {
            Self::Interrupted
        } else if summary.not_begun > 0
            || !summary.failed.is_empty()
            || some(|o| matches!(o, Outcome::Refused(_) | Outcome::Stopped(_) | Outcome::Blocked(_)))
        {
            Self::Devices
        } else {
            Self::Done
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The code of a call that everything depended on.
pub fn of_call(error: &wire::Error) -> Exit {
    if error.status().is_some_and(|s| s.caused_by("pkg/auth", "token")) {
        return Exit::Denied;
    }
    match error.kind() {
        // A server that keeps the deadline for us says "cancelled" or "unavailable".
        wire::Kind::Unreachable
        | wire::Kind::Tls(_)
        | wire::Kind::Deadline
        | wire::Kind::Unavailable
        | wire::Kind::Cancelled => Exit::Unreachable,
        wire::Kind::Unauthenticated | wire::Kind::Denied { .. } => Exit::Denied,
        // What listens there was found to be no gRPC server before anything was sent.
        wire::Kind::Protocol if error.outcome() == wire::Outcome::NotApplied => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code() {
        use Exit as E;
        for exit in
            [E::Done, E::Failed, E::Usage, E::Devices, E::Unreachable, E::Denied, E::Journal, E::Interrupted]
        {
            let line = format!("\n  {:<4} ", exit.code());
            assert!(TABLE.contains(&line), "{exit:?}");
        }
    }
}
