//! One journal for many tasks: a thread that writes everything that waits in one transaction.

use std::{
    fmt, mem,
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    DeviceKey, Event, Journal, Plain, Write,
    error::{Error, ErrorKind},
    writer::check_sizes,
};

/// How many calls may wait; more wait for room.
const WAITING: usize = 1024;
/// The most bytes in one transaction, not counting the write that goes beyond.
const GROUP_BYTES: usize = 8 << 20;

/// The journal, for any number of tasks. Clones share it.
///
/// What one task writes is in the order of its calls. A call that was made takes effect even when its future is dropped.
/// The journal is closed by [`JournalHandle::close`], or when the last handle is dropped.
#[derive(Clone)]
pub struct JournalHandle {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl fmt::Debug for JournalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalHandle").field("path", &self.path).finish_non_exhaustive()
    }
}

enum Job {
    Write(Vec<Write>, Reply),
    Read(Box<dyn FnOnce(&Journal) + Send>),
    Close(oneshot::Sender<Result<(), Error>>),
}

/// The number of the first entry of a call.
type Reply = oneshot::Sender<Result<u64, Error>>;

impl Journal {
    /// Gives the journal to a thread of its own, for use from many tasks.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn share(self) -> Result<JournalHandle, Error> {
        let path = self.path().to_owned();
        let (jobs, waiting) = mpsc::channel(WAITING);
        thread::Builder::new()
            .name("journal".into())
            .spawn(move || serve(self, waiting))
            .map_err(|e| Error::io(&path, "starting its thread", &e))?;
        Ok(JournalHandle { jobs, path })
    }
}

impl JournalHandle {
    /// The journal, as the config names it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Journal::append`].
    ///
    /// # Errors
    /// Those of [`Journal::write`], or [`ErrorKind::Closed`].
    pub async fn append(
        &self,
        device: &DeviceKey,
        kind: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<u64, Error> {
        self.write(vec![Write::event(device, kind, body)]).await
    }

    /// As [`Journal::seal`].
    ///
    /// # Errors
    /// Those of [`Journal::write`], or [`ErrorKind::Closed`].
    pub async fn seal(&self, device: &DeviceKey, kind: &str, plain: &[u8]) -> Result<u64, Error> {
        self.write(vec![Write::seal(device, kind, plain)]).await
    }

    /// As [`Journal::write`]: all or none. Returns the number of the first entry; the others follow it without gaps.
    ///
    /// # Errors
    /// Those of [`Journal::write`], or [`ErrorKind::Closed`].
    pub async fn write(&self, writes: Vec<Write>) -> Result<u64, Error> {
        // Here, so that it fails this call alone and not all that are written with it.
        check_sizes(&self.path, &writes)?;
        self.ask(|reply| Job::Write(writes, reply)).await
    }

    /// As [`Journal::set_meta`].
    ///
    /// # Errors
    /// Those of [`Journal::write`], or [`ErrorKind::Closed`].
    pub async fn set_meta(&self, key: &str, value: &str) -> Result<(), Error> {
        self.write(vec![Write::meta(key, value)]).await.map(drop)
    }

    /// As [`Journal::unseal`].
    ///
    /// # Errors
    /// Those of [`Journal::unseal`], or [`ErrorKind::Closed`].
    pub async fn unseal(&self, id: u64) -> Result<Plain, Error> {
        self.read(move |journal| journal.unseal(id)).await
    }

    /// As [`Journal::latest_seal`].
    ///
    /// # Errors
    /// Those of [`Journal::latest_seal`], or [`ErrorKind::Closed`].
    pub async fn latest_seal(&self, device: &DeviceKey, kind: &str) -> Result<Option<(u64, Plain)>, Error> {
        let (device, kind) = (device.clone(), kind.to_owned());
        self.read(move |journal| journal.latest_seal(&device, &kind)).await
    }

    /// As [`super::View::events`].
    ///
    /// # Errors
    /// Those of [`super::View::events`], or [`ErrorKind::Closed`].
    pub async fn events(&self, device: &DeviceKey) -> Result<Vec<Event>, Error> {
        let device = device.clone();
        self.read(move |journal| journal.events(&device)).await
    }

    /// Reads anything from the journal, after all writes that were asked for before.
    ///
    /// # Errors
    /// Those of `f`, or [`ErrorKind::Closed`].
    pub async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Journal) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.ask(|reply| {
            Job::Read(Box::new(move |journal| {
                let _ = reply.send(f(journal));
            }))
        })
        .await
    }

    /// Writes what waits and closes the journal; every later call, of any clone, fails with [`ErrorKind::Closed`].
    ///
    /// # Errors
    /// The error of an earlier write, if one has failed.
    pub async fn close(self) -> Result<(), Error> {
        self.ask(Job::Close).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Job) -> Result<T, Error> {
        let closed = || Error::new(&self.path, ErrorKind::Closed);
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

fn serve(mut journal: Journal, mut jobs: mpsc::Receiver<Job>) {
    let mut group = Group::default();
    while let Some(job) = jobs.blocking_recv() {
        let mut next = Some(job);
        while let Some(job) = next {
            match job {
                Job::Write(writes, reply) => group.add(writes, reply),
                Job::Read(read) => {
                    group.commit(&mut journal);
                    read(&journal);
                }
                Job::Close(reply) => {
                    group.commit(&mut journal);
                    let _ = reply.send(journal.close());
                    return;
                }
            }
            next = if group.bytes < GROUP_BYTES { jobs.try_recv().ok() } else { None };
        }
        group.commit(&mut journal);
    }
}

/// Writes of several calls that become durable together.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    bytes: usize,
    /// How many writes came before each call's, and whom to tell.
    replies: Vec<(u64, Reply)>,
}

impl Group {
    fn add(&mut self, writes: Vec<Write>, reply: Reply) {
        self.replies.push((self.writes.len() as u64, reply));
        self.bytes += writes.iter().map(Write::bytes).sum::<usize>();
        self.writes.extend(writes);
    }

    fn commit(&mut self, journal: &mut Journal) {
        let Self { writes, replies, .. } = mem::take(self);
        if replies.is_empty() {
            return;
        }
        let done = journal.write(&writes);
        for (before, reply) in replies {
            // Whoever asked may have given up waiting.
            let _ = reply.send(done.clone().map(|seqs| seqs.start + before));
        }
    }
}
