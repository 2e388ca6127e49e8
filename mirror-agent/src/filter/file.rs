//! Files with filters, as tcpdump's `-F` has them.

use std::{fs, path::Path};

/// The expression in a file. As with tcpdump, what follows `#` in a line is a comment; each of its bytes becomes a space,
/// so that what is wrong is shown where it is.
///
/// # Errors
///
/// The file cannot be read, or is no text.
pub fn read(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read the filter file {}: {error}", path.display()))?;
    Ok(text.lines().map(without_comment).collect::<Vec<_>>().join("\n"))
}

fn without_comment(line: &str) -> String {
    match line.split_once('#') {
        Some((text, comment)) => text.to_owned() + &" ".repeat(1 + comment.chars().count()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_spaces() {
        assert_eq!(without_comment("tcp # the web"), "tcp          ");
        assert_eq!(without_comment("port 80"), "port 80");
        assert_eq!(without_comment("#"), " ");
    }
}
