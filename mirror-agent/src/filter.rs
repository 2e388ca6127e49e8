//! Filters: tcpdump's language, libpcap's compiler, and what its programs become in the kernel.
//!
//! libpcap makes a classic program of an expression ([`libpcap`]), for plain Ethernet: a VLAN tag is where it was on the
//! wire, whatever the card or the kernel did with it. In the kernel it becomes a part of the hook programs
//! ([`translate`], and [`crate::kernel::filtered`]); a replay runs it as it is ([`classic`]).

pub mod assembler;
pub mod classic;
pub mod dump;
mod file;
pub mod libpcap;
pub mod listing;
mod mistake;
mod tokens;
pub mod translate;

use std::{
    fmt::{self, Display, Formatter},
    path::Path,
};

pub use self::mistake::Mistake;
use self::{classic::Program, libpcap::Compiler};

/// A filter.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The expression, without comments.
    pub expression: String,
    /// What it means.
    pub program: Program,
}

impl Filter {
    /// From the words of a command line.
    ///
    /// # Errors
    ///
    /// The expression is wrong.
    pub fn of_words(words: &[String]) -> Result<Self, String> {
        Self::compile(&words.join(" ")).map_err(|mistake| mistake.to_string())
    }

    /// From a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or the expression is wrong.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let expression = file::read(path)?;
        Self::compile(&expression).map_err(|mistake| format!("{}: {mistake}", path.display()))
    }

    /// One that takes every frame.
    ///
    /// # Errors
    ///
    /// libpcap has no memory.
    pub fn everything() -> Result<Self, String> {
        Self::compile("").map_err(|mistake| mistake.to_string())
    }

    /// From an expression.
    ///
    /// # Errors
    ///
    /// The expression is wrong.
    pub fn compile(expression: &str) -> Result<Self, Mistake> {
        let tokens = tokens::tokens(expression);
        if let Some(name) = tokens::host_name(&tokens) {
            return Err(Mistake::host_name(expression, name));
        }
        if let Some(word) = tokens::of_metadata(&tokens) {
            return Err(Mistake::of_metadata(expression, word));
        }
        let compiler = Compiler::new();
        match compiler.compile(expression) {
            Ok(program) => Ok(Self { expression: expression.to_owned(), program }),
            Err(message) => Err(Mistake::find(expression, &tokens, message, &compiler)),
        }
    }
}

/// In one line.
impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.expression.trim().is_empty() {
            return f.write_str("all are mirrored");
        }
        f.write_str(&self.expression.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
