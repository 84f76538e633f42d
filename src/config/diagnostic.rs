//! What is wrong with a configuration, and where: shown with the line, a caret and what to do.

use std::{error::Error, fmt, ops::Range, path::PathBuf};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::mask;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// These bytes of the file.
    File(Range<usize>),
    /// An environment variable that overrides a key.
    Variable(&'static str),
    /// Nowhere: the problem is that something is missing, or the file as a whole.
    Whole,
}

/// Whether the configuration can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but somebody should look.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it stops the program.
    pub severity: Severity,
    /// What is wrong: a lowercase fragment without a secret in it.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to say at the caret; may be empty.
    pub label: String,
    /// What to do.
    pub help: Option<String>,
    /// Other places that matter, such as the first of two that clash.
    pub also: Vec<(Range<usize>, String)>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(place: &Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: mask::tokens(&message.into()),
            place: place.clone(),
            label: String::new(),
            help: None,
            also: Vec::new(),
        }
    }

    /// A warning at a place.
    pub fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    /// With words at the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = mask::tokens(&label.into());
        self
    }

    /// With what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(mask::tokens(&help.into()));
        self
    }

    /// With another place of the file that matters.
    pub fn also(mut self, place: &Place, label: impl Into<String>) -> Self {
        if let Place::File(span) = place {
            self.also.push((span.clone(), mask::tokens(&label.into())));
        }
        self
    }
}

/// All problems of one file, in the order of the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostics {
    path: PathBuf,
    /// The text of the file with everything masked that may be a secret, byte for byte as long as the file.
    masked: String,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts the problems; `masked` must have no secret in it.
    pub(super) fn new(path: PathBuf, masked: String, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|item| match &item.place {
            Place::Whole => (0, 0),
            Place::File(span) => (1, span.start),
            Place::Variable(_) => (2, 0),
        });
        items.dedup();
        Self { path, masked, items }
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True when one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// Line and column of a problem in the file, both from 1; the column counts characters.
    pub fn position(&self, item: &Diagnostic) -> Option<(usize, usize)> {
        let Place::File(span) = &item.place else { return None };
        let before = &self.masked[..self.within(span).start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }

    /// All problems as text for a terminal, with or without colour.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let texts: Vec<String> = self.items.iter().map(|item| self.render_one(item, &renderer)).collect();
        texts.join("\n\n")
    }

    fn render_one(&self, item: &Diagnostic, renderer: &Renderer) -> String {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let path = self.path.display().to_string();
        let title = level.primary_title(&item.message);
        let group = match &item.place {
            Place::File(span) => {
                let label = (!item.label.is_empty()).then_some(item.label.as_str());
                let mut snippet = Snippet::source(&self.masked)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(self.within(span)).label(label));
                for (span, label) in &item.also {
                    snippet = snippet
                        .annotation(AnnotationKind::Context.span(self.within(span)).label(label.as_str()));
                }
                title.element(snippet)
            }
            Place::Variable(name) => {
                let group = title.element(Origin::path(format!("environment variable {name}")));
                if item.label.is_empty() { group } else { group.element(Level::NOTE.message(&item.label)) }
            }
            Place::Whole => title.element(Origin::path(path)),
        };
        let group = match &item.help {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        };
        renderer.render(&[group])
    }

    /// A span that surely lies in the text, on character boundaries.
    fn within(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.masked.floor_char_boundary(span.start);
        start..self.masked.ceil_char_boundary(span.end).max(start)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Only the messages: the text of the file stays out of logs.
impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.items.iter().map(|item| &item.message)).finish()
    }
}

impl Error for Diagnostics {}
