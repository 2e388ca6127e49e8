//! What the user asks for, in three places: the command line, `MIRROR_*` variables, and a configuration file.
//!
//! An option that is given in one place is not looked for in the next. What variables and the file say is put in front of the
//! command line's own words, as options, and clap takes all of it together: a new option needs no second list.

mod file;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Display, Formatter},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Id, ValueEnum as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use crate::{
    cli::{Cli, LogFormat},
    config::Config,
    filter::Filter,
    wanted::Wanted,
};

/// The option that names the file.
const CONFIG: &str = "config";

/// How a variable's name begins.
const PREFIX: &str = "MIRROR_";

/// The words of the command line, the program's name first, and what is read anew each time besides.
#[derive(Clone, Debug)]
pub struct Invocation {
    words: Vec<OsString>,
}

/// Everything that was asked for.
#[derive(Debug)]
pub struct Asked {
    /// As clap has it.
    pub cli: Cli,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The values of all options that were given, by what the option is called.
    pub values: BTreeMap<String, Vec<OsString>>,
}

/// An option's values, in another place than the command line.
#[derive(Clone, Debug)]
struct Setting {
    id: Id,
    values: Vec<String>,
    origin: Origin,
}

/// Where it was given.
#[derive(Clone, Debug)]
enum Origin {
    Variable(String),
    File { path: PathBuf, line: usize },
}

/// Why nothing can be done.
#[derive(Debug)]
pub enum Refusal {
    /// What was asked for is text: the help, or the version.
    Shown(clap::Error),
    /// Something is wrong: one line each.
    Wrong(Vec<String>),
}

impl Invocation {
    /// Of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { words: std::env::args_os().collect() }
    }

    /// Of the main job with nothing but a configuration file.
    #[must_use]
    pub fn with_file(path: PathBuf) -> Self {
        Self { words: vec!["mirror-agent".into(), "--config".into(), path.into()] }
    }

    /// The form of what is said on standard error, as far as that can be told where something is wrong with the rest.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        const OPTION: &str = "--log-format";
        let mut words = self.words.iter().filter_map(|word| word.to_str());
        let mut given = None;
        while let Some(word) = words.next() {
            match word.strip_prefix(OPTION) {
                Some("") => given = words.next().map(str::to_owned),
                Some(value) => given = value.strip_prefix('=').map(str::to_owned),
                None => {}
            }
        }
        let given = given.or_else(|| std::env::var(format!("{PREFIX}LOG_FORMAT")).ok());
        given.and_then(|given| LogFormat::from_str(&given, false).ok()).unwrap_or(LogFormat::Auto)
    }

    /// Reads all three places.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn read(&self) -> Result<Asked, Refusal> {
        // Without the derived checks, which come at the end, of everything together.
        let mut command = Cli::command();
        command.build();
        let given = Cli::command().ignore_errors(true).try_get_matches_from(&self.words).ok();
        let is_main = given.as_ref().is_some_and(|matches| matches.subcommand_name().is_none());
        let mut settings: Vec<Setting> = Vec::new();
        let mut file = None;
        if let Some(given) = given.filter(|_| is_main) {
            let mut taken: Vec<Id> = command
                .get_arguments()
                .map(|arg| arg.get_id().clone())
                .filter(|id| given.value_source(id.as_str()) == Some(ValueSource::CommandLine))
                .collect();
            let variables = variables(&command).map_err(Refusal::Wrong)?;
            take(&command, &mut taken, &mut settings, variables);
            file = given.get_one::<PathBuf>(CONFIG).cloned().or_else(|| {
                let named = std::env::var_os(format!("{PREFIX}CONFIG")).filter(|path| !path.is_empty());
                named.map(PathBuf::from)
            });
            if let Some(path) = &file {
                let in_file = file::read(path, &command).map_err(Refusal::Wrong)?;
                take(&command, &mut taken, &mut settings, in_file);
            }
        }
        let words = self.words_with(&command, &settings);
        let matches = Cli::command()
            .try_get_matches_from(words)
            .map_err(|error| refusal(error, &command, &settings))?;
        let cli = Cli::from_arg_matches(&matches).map_err(|error| refusal(error, &command, &settings))?;
        Ok(Asked { cli, file, values: values(&command, &matches) })
    }

    /// The command line that says all of it.
    fn words_with(&self, command: &Command, settings: &[Setting]) -> Vec<OsString> {
        let (mut options, mut operands) = (Vec::new(), Vec::new());
        for Setting { id, values, .. } in settings {
            let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == id) else { continue };
            for value in values {
                match arg.get_action() {
                    ArgAction::SetTrue => {
                        options.extend((value == "true").then(|| format!("--{}", key(arg))))
                    }
                    ArgAction::Count => {
                        let count = value.parse().unwrap_or(0_usize).min(usize::from(u8::MAX));
                        options.extend(std::iter::repeat_n(format!("--{}", key(arg)), count));
                    }
                    _ if arg.is_positional() => operands.push(value.clone()),
                    _ => options.push(format!("--{}={value}", key(arg))),
                }
            }
        }
        let mut words: Vec<OsString> = self.words.iter().take(1).cloned().collect();
        words.extend(options.into_iter().map(OsString::from));
        words.extend(self.words.iter().skip(1).cloned());
        if !operands.is_empty() {
            words.push("--".into());
            words.extend(operands.into_iter().map(OsString::from));
        }
        words
    }
}

/// Whether an option is one of all three places.
fn is_option(arg: &Arg) -> bool {
    let is_help = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    !is_help && arg.get_id() != CONFIG
}

/// The option's long name, or what stands in its place where it has none.
fn key(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().to_string(), str::to_owned)
}

fn is_repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append) && !arg.is_positional()
}

/// What the environment says.
fn variables(command: &Command) -> Result<Vec<Setting>, Vec<String>> {
    let (mut settings, mut errors) = (Vec::new(), Vec::new());
    for arg in command.get_arguments().filter(|arg| is_option(arg)) {
        let name = format!("{PREFIX}{}", key(arg).to_uppercase().replace('-', "_"));
        // One that is empty is as good as none.
        let Some(value) = std::env::var_os(&name).filter(|value| !value.is_empty()) else { continue };
        let Some(value) = value.to_str() else {
            errors.push(format!("{name}: not UTF-8"));
            continue;
        };
        let values = match arg.get_action() {
            ArgAction::SetTrue => match value {
                "1" | "true" | "yes" | "on" => Ok(vec!["true".into()]),
                "0" | "false" | "no" | "off" => Ok(vec!["false".into()]),
                _ => Err("true or false"),
            },
            ArgAction::Count if value.parse::<u8>().is_err() => Err("a number"),
            _ if is_repeatable(arg) => Ok(value.split(',').map(|part| part.trim().to_owned()).collect()),
            _ => Ok(vec![value.to_owned()]),
        };
        match values {
            Ok(values) => {
                settings.push(Setting { id: arg.get_id().clone(), values, origin: Origin::Variable(name) });
            }
            Err(expected) => errors.push(format!("{name}={value}: expected {expected}")),
        }
    }
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

/// Takes those settings that no place before has, neither itself nor something that excludes it.
fn take(command: &Command, taken: &mut Vec<Id>, settings: &mut Vec<Setting>, more: Vec<Setting>) {
    let more: Vec<Setting> = more
        .into_iter()
        .filter(|setting| {
            !taken.iter().any(|taken| *taken == setting.id || excludes(command, taken, &setting.id))
        })
        .collect();
    taken.extend(more.iter().map(|setting| setting.id.clone()));
    settings.extend(more);
}

/// Whether two options cannot be given together.
fn excludes(command: &Command, one: &Id, other: &Id) -> bool {
    let names = |from: &Id, to: &Id| {
        let from = command.get_arguments().find(|arg| arg.get_id() == from);
        from.is_some_and(|from| command.get_arg_conflicts_with(from).iter().any(|arg| arg.get_id() == to))
    };
    let share_a_choice = command.get_groups().any(|group| {
        let has = |id: &Id| group.get_args().any(|member| member == id);
        has(one) && has(other) && !group.clone().is_multiple()
    });
    names(one, other) || names(other, one) || share_a_choice
}

/// The values of what was given, as text.
fn values(command: &Command, matches: &ArgMatches) -> BTreeMap<String, Vec<OsString>> {
    let options = command.get_arguments().filter(|arg| is_option(arg));
    let given = options.filter_map(|arg| {
        let id = arg.get_id().as_str();
        let is_given = matches.value_source(id) == Some(ValueSource::CommandLine);
        let values = match arg.get_action() {
            _ if !is_given => return None,
            ArgAction::Count => vec![matches.get_count(id).to_string().into()],
            ArgAction::SetTrue => vec![matches.get_flag(id).to_string().into()],
            _ => matches.get_raw(id)?.map(OsString::from).collect(),
        };
        Some((key(arg), values))
    });
    given.collect()
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

fn refusal(error: clap::Error, command: &Command, settings: &[Setting]) -> Refusal {
    if !error.use_stderr() {
        return Refusal::Shown(error);
    }
    // Whose value it is, where it was not typed: `--limit <N>`.
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.split([' ', '=']).next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let is_named = |setting: &&Setting| {
        let arg = command.get_arguments().find(|arg| *arg.get_id() == setting.id);
        arg.is_some_and(|arg| {
            format!("--{}", key(arg)) == named || arg.is_positional() && named.contains(setting.id.as_str())
        })
    };
    let origin = settings.iter().find(is_named).map(|setting| format!("{}: ", setting.origin));
    Refusal::Wrong(vec![origin.unwrap_or_default() + &usage_error(&error)])
}

/// The first paragraph of clap's message, which says what is wrong; the usage that follows is for `--help`.
fn usage_error(error: &clap::Error) -> String {
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) {
        return format!("{word:?} is neither an option nor a subcommand: each capture has its own --read");
    }
    let message = error.to_string();
    if error.kind() == ErrorKind::MissingRequiredArgument && message.contains("--iface") {
        return "nothing to mirror: name an interface (--iface) or a capture (--read), see --help".into();
    }
    let paragraph = message.split("\n\n").next().unwrap_or(&message);
    format!("{} (see --help)", paragraph.trim_start_matches("error: ").trim())
}

/// What may be asked for anew while the agent runs.
#[derive(Debug)]
pub struct Reload {
    invocation: Invocation,
    values: BTreeMap<String, Vec<OsString>>,
    /// Whether frames meet a filter: only then they can meet another one.
    has_filter: bool,
    /// What is read anew.
    files: Vec<PathBuf>,
}

/// What a new reading changes.
#[derive(Debug, Default)]
pub struct Changes {
    /// Other interfaces are meant.
    pub wanted: Option<Wanted>,
    /// The filter that frames are to meet, where they meet one: its file may say something else than before.
    pub filter: Option<Filter>,
    /// Options that have other values now, which only a new start can put in force.
    pub need_restart: Vec<String>,
}

/// Options that say which interfaces are meant.
const INTERFACES: [&str; 2] = ["iface", "exclude-iface"];

/// Options that can change in a run.
const RELOADED: [&str; 4] = [INTERFACES[0], INTERFACES[1], FILTER, "filter-file"];

/// What a filter on the command line is called in the file.
const FILTER: &str = "filter";

impl Reload {
    /// For a run that was asked for like this, where there is a file to be read anew.
    #[must_use]
    pub fn new(invocation: Invocation, asked: &Asked) -> Option<Self> {
        let filter_file = &asked.cli.mirror.filter_file;
        let has_filter = filter_file.is_some() || !asked.cli.mirror.filter.is_empty();
        let files: Vec<PathBuf> = asked.file.iter().chain(filter_file).cloned().collect();
        (!files.is_empty()).then(|| Self { invocation, values: asked.values.clone(), has_filter, files })
    }

    /// Whether frames meet a filter.
    #[must_use]
    pub fn has_filter(&self) -> bool {
        self.has_filter
    }

    /// What is read anew.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Reads everything anew.
    ///
    /// # Errors
    ///
    /// One line: what is wrong. What was in force stays so.
    pub fn read(&mut self) -> Result<Changes, String> {
        let asked = match self.invocation.read() {
            Ok(asked) => asked,
            Err(Refusal::Wrong(lines)) => return Err(lines.join("; ")),
            Err(Refusal::Shown(error)) => return Err(error.to_string()),
        };
        let values = asked.values.clone();
        let config = Config::new(asked.cli.mirror).map_err(|error| in_one_line(&error))?;
        let wanted = config.wanted().cloned();
        let keys: std::collections::BTreeSet<&String> = self.values.keys().chain(values.keys()).collect();
        let changed: Vec<&String> =
            keys.into_iter().filter(|key| self.values.get(*key) != values.get(*key)).collect();
        let is_reloaded = |key: &&&String| RELOADED.contains(&key.as_str());
        let mut need_restart: Vec<String> =
            changed.iter().filter(|key| !is_reloaded(key)).map(|key| (*key).clone()).collect();
        if own_vnis(&self.values) != own_vnis(&values) {
            need_restart.push("iface with vni".into());
        }
        let filter = match config.filter {
            Some(_) if !self.has_filter => {
                need_restart.push(FILTER.into());
                None
            }
            None if self.has_filter => Some(Filter::everything()?),
            filter => filter,
        };
        let changes = Changes {
            filter,
            wanted: wanted.filter(|_| changed.iter().any(|key| INTERFACES.contains(&key.as_str()))),
            need_restart,
        };
        for key in RELOADED {
            match values.get(key) {
                Some(new) => self.values.insert(key.into(), new.clone()),
                None => self.values.remove(key),
            };
        }
        Ok(changes)
    }
}

/// A message that shows a filter and the place of its mistake takes several.
fn in_one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The interfaces with networks of their own, which are told to the kernel programs and the sending threads once.
fn own_vnis(values: &BTreeMap<String, Vec<OsString>>) -> Vec<&OsString> {
    let has_own = |value: &&OsString| value.to_str().is_some_and(|value| value.contains("=vni:"));
    values.get("iface").into_iter().flatten().filter(has_own).collect()
}
