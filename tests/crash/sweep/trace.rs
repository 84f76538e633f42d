//! The operating system kills the client, around a system call that changes a file of the journal.
//!
//! A small tracer (ptrace) rather than `strace`: its counts go over all threads of the client, and nothing has to be
//! installed. The client is the same binary as ever.

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Which call is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Before(usize),
    After(usize),
    /// After the n-th that makes a transaction last.
    Committed(usize),
    Never,
}

/// What a traced client did.
#[derive(Debug)]
pub struct Traced {
    pub output: Output,
    /// System calls that changed a file of the journal, in order.
    pub writes: Vec<Write>,
    /// True when it was killed from here.
    pub fired: bool,
}

/// A system call that changes a file of the journal.
#[derive(Debug)]
pub struct Write {
    /// Its name and the file.
    pub what: String,
    /// The calls that the servers had seen by then.
    pub calls: usize,
}

impl Write {
    /// True when it makes a transaction last: before it the journal holds the one before, after it this one.
    pub fn commits(&self) -> bool {
        self.what == "fsync test.journal-wal"
    }
}

/// Runs `command` and counts what it does to files in `folder`; `calls`: how many calls the servers have seen.
#[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
pub fn run(command: &Command, folder: &Path, stop: Stop, calls: &dyn Fn() -> usize) -> Traced {
    let folder = fs::canonicalize(folder).expect("the folder is there");
    let (out, err) = (folder.join("traced.out"), folder.join("traced.err"));
    let file = |path: &PathBuf| fs::File::create(path).expect("a file");
    // The shell waits for a line, so that the tracer is there before the client begins.
    let mut shell = Command::new("sh");
    shell.args(["-c", "read go; exec \"$@\" </dev/null", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).envs(command.get_envs().filter_map(|(k, v)| v.map(|v| (k, v))));
    let mut child =
        shell.stdin(Stdio::piped()).stdout(file(&out)).stderr(file(&err)).spawn().expect("sh starts");
    let client = Pid::from_raw(i32::try_from(child.id()).expect("a process ID"));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(client, options)
        .expect("ptrace is allowed: the sweep needs it (a container needs CAP_SYS_PTRACE)");
    child.stdin.take().expect("a pipe").write_all(b"\n").expect("the shell reads");
    let mut tracer = Tracer {
        client,
        folder,
        stop,
        calls,
        inside: HashSet::new(),
        exiting: None,
        writes: vec![],
        fired: false,
    };
    let status = tracer.watch();
    let read = |path: &PathBuf| fs::read(path).unwrap_or_default();
    let output = Output { status, stdout: read(&out), stderr: read(&err) };
    Traced { output, writes: tracer.writes, fired: tracer.fired }
}

struct Tracer<'a> {
    client: Pid,
    folder: PathBuf,
    stop: Stop,
    calls: &'a dyn Fn() -> usize,
    /// Threads that are in a system call.
    inside: HashSet<Pid>,
    /// The thread whose call is the last one.
    exiting: Option<Pid>,
    writes: Vec<Write>,
    fired: bool,
}

impl Tracer<'_> {
    fn watch(&mut self) -> ExitStatus {
        loop {
            // Children and tracees of this thread only: others trace at the same time.
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Err(Errno::EINTR) => continue,
                status => status.expect("the client is ours"),
            };
            let resumed = match status {
                WaitStatus::Exited(pid, code) if pid == self.client => {
                    return ExitStatus::from_raw(code << 8);
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.client => {
                    return ExitStatus::from_raw(signal as i32);
                }
                WaitStatus::PtraceSyscall(thread) => {
                    self.at_call(thread);
                    ptrace::syscall(thread, None)
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        // Its next stop is the end of `execve`.
                        self.inside.insert(thread);
                    }
                    ptrace::syscall(thread, None)
                }
                WaitStatus::Stopped(thread, signal) => ptrace::syscall(thread, signal),
                _ => Ok(()),
            };
            match resumed {
                // Killed meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => panic!("ptrace: {error}"),
            }
        }
    }

    fn at_call(&mut self, thread: Pid) {
        if self.inside.remove(&thread) {
            if self.exiting == Some(thread) {
                self.kill();
            }
            return;
        }
        self.inside.insert(thread);
        let Some(what) = Call::of(thread).and_then(|call| call.changes(thread, &self.folder)) else { return };
        if self.fired || self.exiting.is_some() {
            return;
        }
        self.writes.push(Write { what, calls: (self.calls)() });
        let n = self.writes.len();
        let commits = self.writes.last().is_some_and(Write::commits);
        match self.stop {
            Stop::Committed(at) if commits && at == self.writes.iter().filter(|w| w.commits()).count() => {
                self.exiting = Some(thread);
            }
            Stop::Before(at) if at == n => self.kill(),
            Stop::After(at) if at == n => self.exiting = Some(thread),
            _ => {}
        }
    }

    fn kill(&mut self) {
        self.fired = true;
        kill(self.client, Signal::SIGKILL).expect("the client is ours");
    }
}

/// A system call at its entry.
struct Call {
    number: i64,
    arguments: [u64; 3],
}

impl Call {
    #[cfg(target_arch = "x86_64")]
    fn of(thread: Pid) -> Option<Self> {
        let registers = ptrace::getregs(thread).ok()?;
        let number = registers.orig_rax.cast_signed();
        Some(Self { number, arguments: [registers.rdi, registers.rsi, registers.rdx] })
    }

    #[cfg(target_arch = "aarch64")]
    fn of(thread: Pid) -> Option<Self> {
        let registers = ptrace::getregs(thread).ok()?;
        let number = registers.regs[8].cast_signed();
        Some(Self { number, arguments: [registers.regs[0], registers.regs[1], registers.regs[2]] })
    }

    /// What it changes in the folder, if it does.
    fn changes(&self, thread: Pid, folder: &Path) -> Option<String> {
        use libc as c;
        let name = match self.number {
            c::SYS_write => "write",
            c::SYS_writev => "writev",
            c::SYS_pwrite64 => "pwrite64",
            c::SYS_pwritev => "pwritev",
            c::SYS_fsync => "fsync",
            c::SYS_fdatasync => "fdatasync",
            c::SYS_ftruncate => "ftruncate",
            c::SYS_fallocate => "fallocate",
            c::SYS_fchmod => "fchmod",
            // The client makes, renames and removes no other files than those of the journal.
            c::SYS_openat if self.arguments[2] & c::O_CREAT as u64 != 0 => {
                return Some("openat, new".to_owned());
            }
            c::SYS_unlinkat => return Some("unlinkat".to_owned()),
            c::SYS_renameat | c::SYS_renameat2 => return Some("renameat".to_owned()),
            #[cfg(target_arch = "x86_64")]
            c::SYS_unlink => return Some("unlink".to_owned()),
            #[cfg(target_arch = "x86_64")]
            c::SYS_rename => return Some("rename".to_owned()),
            #[cfg(target_arch = "x86_64")]
            c::SYS_chmod => return Some("chmod".to_owned()),
            _ => return None,
        };
        let file = fs::read_link(format!("/proc/{thread}/fd/{}", self.arguments[0])).ok()?;
        let inside = file.strip_prefix(folder).ok()?;
        let output = inside.starts_with("traced.out") || inside.starts_with("traced.err");
        (!output).then(|| format!("{name} {}", inside.display()))
    }
}
