//! Another filter, while a run goes on.

use super::{Run, origin::Origin};
use crate::{console::notice, filter::Filter};

impl Run {
    /// Has all hooks go by `filter`. Where that cannot be, it is told in a line, and the old filter stays.
    pub(super) fn replace_filter(&mut self, filter: &Filter) {
        let Origin::Live { hooks, .. } = &mut self.origin else {
            return log::warn!("a replay keeps its filter");
        };
        match hooks.replace_filter(&filter.program) {
            Ok(()) => notice(format_args!("frames meet the filter that is there now: {filter}")),
            Err(error) => log::error!("{error:#}: the filter stays as it was"),
        }
    }
}
