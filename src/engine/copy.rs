//! The steps on the target: create, verify, see, and the undo of a create; and the last look before the clear.

use super::{
    compare::{self, Standing},
    device::{Mover, Trouble, changed, retry},
};
use crate::{
    map::path,
    model::device::Component,
    plan::{
        finding::{Finding, Kind},
        transform::{Found, STARTED_AT, Write},
    },
    source::Source,
    step::Step,
    target::Target,
};

impl<S: Source, T: Target> Mover<'_, S, T> {
    /// Creates a record, or adopts the one that an earlier attempt left: it must be what we would write.
    pub(super) async fn create(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Create(component);
        let write = self.write(component).await?;
        let id = self.target_id();
        let there = self.ctx.target.read(&id, component, &write.paths).await.map_err(retry)?;
        if let Some(record) = &there {
            return match compare::standing(component, &write, record) {
                // An earlier attempt of ours, of which we did not hear whether it succeeded.
                Standing::Equal | Standing::MovedOn if self.log.state().is_open(step) => {
                    self.done(step, Ok(())).await
                }
                Standing::Equal | Standing::MovedOn => {
                    Ok(self.log.record(&crate::step::Event::Adopted { component }).await?)
                }
                Standing::Different(paths) => Err(Trouble::Refuse(
                    Finding::new(Kind::IdTaken, format!("{id} is on the target already and differs"))
                        .at(component)
                        .paths(paths)
                        .fix("remove it there, or move this device under another ID"),
                )),
            };
        }
        self.intent(step).await?;
        let done = self.ctx.target.create(&id, component, &write).await;
        self.done(step, done).await
    }

    /// Creation sets the start of the session to now. A device that has joined since has a start of its own.
    pub(super) async fn started_at(&mut self) -> Result<(), Trouble> {
        let write = self.write(Component::Ns).await?;
        let id = self.target_id();
        let mut paths = write.paths.clone();
        paths.push(STARTED_AT.to_owned());
        let read = self.ctx.target.read(&id, Component::Ns, &paths).await.map_err(retry)?;
        let Some(record) = read else {
            return Err(Trouble::Refuse(not_equal(Component::Ns, vec!["the record is gone".into()])));
        };
        self.intent(Step::StartedAt).await?;
        let same_session = path::bytes(&record.0, "session.keys.session_key_id")
            == path::bytes(&write.message, "session.keys.session_key_id")
            && path::bytes(&record.0, "session.dev_addr") == path::bytes(&write.message, "session.dev_addr");
        let as_wanted = path::get(&record.0, STARTED_AT) == path::get(&write.message, STARTED_AT);
        let done = if same_session && !as_wanted {
            let mut message = path::project(&write.message, &["ids", STARTED_AT]);
            path::clear(&mut message, "ids.dev_addr");
            let only = Write { message, paths: vec![STARTED_AT.to_owned()] };
            self.ctx.target.update(&id, Component::Ns, &only).await
        } else {
            Ok(())
        };
        self.done(Step::StartedAt, done).await
    }

    /// Reads a record back and compares it with what was written.
    pub(super) async fn verify(&mut self, component: Component) -> Result<(), Trouble> {
        let mut write = self.write(component).await?;
        if component == Component::Ns && path::has(&write.message, STARTED_AT) {
            write.paths.push(STARTED_AT.to_owned());
        }
        let read = self.ctx.target.read(&self.target_id(), component, &write.paths).await.map_err(retry)?;
        match read.map(|r| compare::standing(component, &write, &r)) {
            Some(Standing::Equal | Standing::MovedOn) => {
                let step = Step::Verify(component);
                self.intent(step).await?;
                self.done(step, Ok(())).await
            }
            Some(Standing::Different(paths)) => Err(Trouble::Refuse(not_equal(component, paths))),
            None => Err(Trouble::Refuse(not_equal(component, vec!["the record is gone".into()]))),
        }
    }

    /// A dropped session comes back as a new one with the first uplink after the join.
    pub(super) async fn await_seen(&mut self) -> Result<(), Trouble> {
        let paths = ["session.dev_addr", "session.last_f_cnt_up"].map(str::to_owned);
        let read = self.ctx.target.read(&self.target_id(), Component::Ns, &paths).await.map_err(retry)?;
        if !read.is_some_and(|r| path::has(&r.0, "session.dev_addr")) {
            return Err(Trouble::Wait("on the target; not seen there yet (it joins by itself)".into()));
        }
        self.intent(Step::AwaitSeen).await?;
        self.done(Step::AwaitSeen, Ok(())).await
    }

    /// The seal is read from disk and held against the source as it is now: equal but for what traffic changes.
    pub(super) async fn check_snapshot(&mut self) -> Result<(), Trouble> {
        let sealed = self.log.second_snapshot().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        for component in Component::ALL {
            let paths = compare::changed_while_muted(
                component,
                sealed.records.get(component),
                now.records.get(component),
            );
            if !paths.is_empty() {
                let text = "the source was edited while the device was moved: nothing is cleared";
                return Err(Trouble::Block(changed(text, component).paths(paths)));
            }
        }
        self.intent(Step::CheckSnapshot).await?;
        self.done(Step::CheckSnapshot, Ok(())).await
    }

    /// Undo of a create. A record that is not ours, or whose device has joined or sent since, stays.
    pub(super) async fn remove(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Remove(component);
        let write = self.write(component).await?;
        let id = self.target_id();
        let there = self.ctx.target.read(&id, component, &write.paths).await.map_err(retry)?;
        let done = match &there {
            None => {
                self.intent(step).await?;
                Ok(())
            }
            Some(record) => {
                if component == Component::Ns && compare::lives(&write, record) {
                    return Err(Trouble::Block(
                        Finding::new(
                            Kind::LiveOnTarget,
                            format!("{id} has joined or sent on the target since"),
                        )
                        .at(component)
                        .fix("leave it there: see what differs, set it right by hand, then run again"),
                    ));
                }
                let ours = self.log.state().has(Step::Create(component));
                if let (false, Standing::Different(paths)) =
                    (ours, compare::standing(component, &write, record))
                {
                    return Err(Trouble::Block(not_equal(component, paths)));
                }
                self.intent(step).await?;
                self.ctx.target.remove(&id, component).await
            }
        };
        self.done(step, done).await
    }
}

fn not_equal(component: Component, paths: Vec<String>) -> Finding {
    Finding::new(Kind::NotEqual, "the target holds something else than what was written")
        .at(component)
        .paths(paths)
        .fix("see who else writes to the target, then run again")
}
