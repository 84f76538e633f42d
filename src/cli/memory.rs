//! Keeps the memory of this process, which holds keys, out of files and out of other processes.

use rustix::process::{Resource, Rlimit, setrlimit};

/// No core dump, and on Linux no reading by other processes of the same user (`/proc/PID/mem`, a debugger).
///
/// A limit of 0 alone does not stop a core dump that goes through a pipe (systemd-coredump, apport): that the process
/// cannot be dumped does (`core(5)`, `PR_SET_DUMPABLE` in `prctl(2)`). Where the system refuses either (a strict sandbox),
/// the program works all the same.
pub fn keep_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::debug!(%error, "core dumps cannot be switched off");
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            tracing::debug!(%error, "the memory cannot be closed to other processes");
        }
    }
}
