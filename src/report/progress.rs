//! What is seen while a run works: a bar in a terminal, one line every ten seconds elsewhere.

use std::{
    fmt,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{json, plan, terminal::Terminal};
use crate::engine::event::{Event, Outcome};

/// How often a line is written where no bar can be shown.
const EVERY: Duration = Duration::from_secs(10);

/// Consumes the events of a run until the engine has dropped its end.
pub async fn watch(mut events: UnboundedReceiver<Event>, terminal: &Terminal, verbose: u8) {
    let mut view = View::new(terminal, verbose);
    let mut tick = tokio::time::interval(EVERY);
    tick.tick().await;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => view.show(&event),
                None => break,
            },
            _ = tick.tick() => view.line(),
        }
    }
    view.bar.finish_and_clear();
}

/// As [`watch`], for commands that show their result themselves: only calls, waits and remarks.
pub async fn watch_calls(mut events: UnboundedReceiver<Event>, terminal: &Terminal, verbose: u8) {
    let mut view = View::new(terminal, verbose);
    while let Some(event) = events.recv().await {
        if !matches!(event, Event::Planned(_)) {
            view.show(&event);
        }
    }
}

struct View<'a> {
    terminal: &'a Terminal,
    bar: ProgressBar,
    verbose: u8,
    begun: Instant,
    total: usize,
    ended: usize,
    failed: usize,
}

impl<'a> View<'a> {
    fn new(terminal: &'a Terminal, verbose: u8) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { terminal, bar, verbose, begun: Instant::now(), total: 0, ended: 0, failed: 0 }
    }

    fn show(&mut self, event: &Event) {
        if let Some(line) = json::event(event, self.verbose) {
            self.terminal.json(&line);
        }
        match event {
            Event::Note(text) => self.say(text),
            Event::Planned(made) => self.say(&plan::text(made)),
            Event::Started { devices } => self.start(*devices),
            Event::Application { app, created: true } => {
                self.say(&format!("application {app} created on the target"))
            }
            Event::Application { .. } => {}
            Event::Step { device, what, .. } => {
                self.bar.set_message(format!("{device}: {what}"));
                if self.verbose > 0 {
                    self.say(&format!("{device}: {what}"));
                }
            }
            Event::Ended { device, outcome } => self.ended(&device.to_string(), outcome),
            Event::Call(call) => {
                if self.verbose > 1 {
                    self.say(call);
                }
            }
            Event::Wait(wait) => {
                self.bar.set_message(wait.clone());
                if self.verbose > 0 {
                    self.say(wait);
                }
            }
            Event::Draining => {
                self.say("stopping: the devices in hand are finished first; Ctrl-C again stops at once");
            }
            Event::TooManyFailures(count) => {
                self.say(&format!("{count} failures: no new devices are begun (rollout.max-failures)"));
            }
        }
    }

    fn start(&mut self, devices: usize) {
        self.total += devices;
        if devices == 0 || !self.terminal.shows_bars() {
            return;
        }
        let style =
            ProgressStyle::with_template("  {bar:32} {pos}/{len} devices  {rate}  {eta} left  {wide_msg}");
        self.bar = ProgressBar::with_draw_target(Some(self.total as u64), ProgressDrawTarget::stderr());
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.1}/s", state.per_sec());
        };
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate));
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn ended(&mut self, name: &str, outcome: &Outcome) {
        self.ended += 1;
        self.bar.inc(1);
        let words = match outcome {
            Outcome::Done | Outcome::Already | Outcome::RolledBack => return,
            Outcome::Waiting(_) if self.verbose == 0 => return,
            Outcome::Waiting(what) => format!("{name}: waiting: {what}"),
            Outcome::Refused(findings) => {
                let first = findings.first().map(ToString::to_string).unwrap_or_default();
                format!("{name}: not moved: {first}")
            }
            Outcome::Stopped(why) => format!("{name}: stopped: {why}"),
            Outcome::Blocked(finding) => format!("{name}: needs a look: {finding}"),
        };
        self.failed += usize::from(!matches!(outcome, Outcome::Waiting(_)));
        // The summary repeats them grouped; a long list of failures would only scroll by.
        if self.failed <= 10 || self.verbose > 0 {
            self.say(&words);
        }
    }

    fn line(&self) {
        if self.total > 0 && self.ended < self.total && !self.terminal.shows_bars() {
            let elapsed = super::summary::seconds(self.begun.elapsed());
            self.terminal.talk(&format!("{} of {} devices after {elapsed}", self.ended, self.total));
        }
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| self.terminal.talk(text));
    }
}
