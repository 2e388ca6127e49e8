//! The configuration file: TOML, with the long options' names for keys.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Origin, Setting, is_option, is_repeatable, key};

/// As alike as two keys have to be for one to be taken for a slip of the other.
const ALIKE: f64 = 0.8;

/// Reads a file for `command`.
///
/// # Errors
///
/// One line for each thing that is wrong: the file, the line, the key, its value, and what it should be.
pub fn read(path: &Path, command: &Command) -> Result<Vec<Setting>, Vec<String>> {
    let text = fs::read_to_string(path)
        .map_err(|error| vec![format!("cannot read --config {}: {error}", path.display())])?;
    let reader = Reader { path, text: &text, command };
    let table = DeTable::parse(&text).map_err(|error| {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        vec![format!("{place}: {}", error.message().replace('\n', ", "))]
    })?;
    let (mut settings, mut errors) = (Vec::new(), Vec::new());
    for (name, value) in table.get_ref() {
        match reader.setting(name, value) {
            Ok(setting) => settings.push(setting),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    command: &'a Command,
}

impl Reader<'_> {
    fn setting(
        &self,
        name: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Setting, String> {
        let place = self.place(name.span().start);
        let written = self.text.get(value.span()).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        let written = written.join(" ");
        let name = name.get_ref().as_ref();
        let Some(arg) = self.command.get_arguments().find(|arg| is_option(arg) && key(arg) == name) else {
            return Err(format!("{place}: there is no option {name}{}", self.suggestion(name)));
        };
        let values = match value.get_ref() {
            DeValue::Array(values) if is_repeatable(arg) => {
                values.iter().map(|value| one(arg, value.get_ref())).collect()
            }
            value => one(arg, value).map(|value| vec![value]),
        };
        let values =
            values.map_err(|expected| format!("{place}: {name} = {written}: expected {expected}"))?;
        let origin = Origin::File { path: PathBuf::from(self.path), line: self.line(value.span().start) };
        Ok(Setting { id: arg.get_id().clone(), values, origin })
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(at))
    }

    fn suggestion(&self, name: &str) -> String {
        let known = self.command.get_arguments().filter(|arg| is_option(arg) && !arg.is_hide_set()).map(key);
        let best = known
            .map(|known| (strsim::jaro_winkler(&known, name), known))
            .filter(|(alike, _)| *alike >= ALIKE)
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        best.map_or_else(|| ", see --help".into(), |(_, known)| format!("; did you mean {known}?"))
    }
}

/// A value as it would stand on the command line, or what is expected in its place.
fn one(arg: &Arg, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(is_set)) => Ok(is_set.to_string()),
        (ArgAction::SetTrue, _) => Err("true or false"),
        (ArgAction::Count, DeValue::Integer(_)) => number(value),
        (ArgAction::Count, _) => Err("a number"),
        (_, DeValue::String(text)) => Ok(text.to_string()),
        (_, DeValue::Integer(_) | DeValue::Float(_)) if takes_number(arg) => number(value),
        _ if is_repeatable(arg) => Err("text, or a list of texts: [\"...\", \"...\"]"),
        _ if takes_number(arg) => Err("a number"),
        _ => Err("text: \"...\""),
    }
}

/// Whether the option's value is a number, which needs no quotes.
fn takes_number(arg: &Arg) -> bool {
    use clap::builder::ValueParser;
    let own = arg.get_value_parser().type_id();
    [
        ValueParser::from(clap::value_parser!(u64)).type_id(),
        ValueParser::from(clap::value_parser!(u32)).type_id(),
        ValueParser::from(clap::value_parser!(u16)).type_id(),
        ValueParser::from(clap::value_parser!(f64)).type_id(),
    ]
    .contains(&own)
}

fn number(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().into()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "a smaller number"),
        DeValue::Float(number) => Ok(number.as_str().into()),
        _ => Err("a number"),
    }
}
