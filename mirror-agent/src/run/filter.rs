//! Another filter, while a run goes on.

use super::{Run, origin::Origin};
use crate::{config::Config, console::notice, filter::Filter};

impl Run {
    /// Reads the filter's file again and has all hooks go by what it says now. What is wrong with it is told in a line, and
    /// the old filter stays.
    pub(super) fn reload_filter(&mut self, config: &Config) {
        let Some(path) = config.filter.as_ref().and_then(|filter| filter.file.clone()) else {
            return;
        };
        let Origin::Live { hooks, .. } = &mut self.origin else {
            return log::warn!("{}: a replay keeps its filter", path.display());
        };
        let result = Filter::of_file(path.clone()).and_then(|new| {
            hooks.replace_filter(&new.program).map(|()| new).map_err(|error| format!("{error:#}"))
        });
        match result {
            Ok(new) => notice(format_args!(
                "{}: frames meet the filter that it has now: {}",
                path.display(),
                new.expression.split_whitespace().collect::<Vec<_>>().join(" ")
            )),
            Err(error) => {
                let line = error.lines().map(str::trim).collect::<Vec<_>>().join(" ");
                log::error!("{line}: the filter stays as it was");
            }
        }
    }
}
