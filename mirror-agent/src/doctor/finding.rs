//! What a check says.

use serde::Serialize;

/// How bad it is, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// A mirror loses frames under load, or could do better.
    Warn,
    /// A mirror does not work, or loses frames for certain.
    Fail,
}

/// What a check says of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub status: Status,
    /// What it is about, where a check looks at several: an interface, a destination, a setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What was found, with its value; one line.
    pub found: String,
    /// Why it matters to a mirror; one line. May be empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Commands that mend it, as a user would paste them into a root shell.
    pub fix: Vec<String>,
    /// Commands that bring back what was before, in the order in which to run them.
    pub undo: Vec<String>,
    /// Whether `--fix` runs the commands.
    pub is_safe: bool,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(found: impl Into<String>) -> Self {
        Self::new(Status::Ok, found, "")
    }

    /// Good to know.
    #[must_use]
    pub fn note(found: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Status::Note, found, why)
    }

    /// Frames are lost under load.
    #[must_use]
    pub fn warn(found: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Status::Warn, found, why)
    }

    /// It does not work.
    #[must_use]
    pub fn fail(found: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Status::Fail, found, why)
    }

    /// With nothing that mends it.
    #[must_use]
    pub fn new(status: Status, found: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            status,
            about: None,
            found: found.into(),
            why: why.into(),
            fix: Vec::new(),
            undo: Vec::new(),
            is_safe: false,
        }
    }

    /// Says what it is about.
    #[must_use]
    pub fn about(self, about: impl Into<String>) -> Self {
        Self { about: Some(about.into()), ..self }
    }

    /// Adds a command that mends it, and one that undoes that; an empty one where there is nothing to undo. Commands are
    /// undone in the opposite order.
    #[must_use]
    pub fn mend(mut self, command: impl Into<String>, undo: impl Into<String>) -> Self {
        self.fix.push(command.into());
        let undo = undo.into();
        if !undo.is_empty() {
            self.undo.insert(0, undo);
        }
        self
    }

    /// `--fix` may run the commands: they change nothing for the worse of what the host does besides, and can be undone.
    #[must_use]
    pub fn safe(self) -> Self {
        Self { is_safe: true, ..self }
    }
}
