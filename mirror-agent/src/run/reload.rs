//! Puts in force what the configuration says now, as far as a run can.

use super::{Run, origin::Origin};
use crate::{
    console::notice,
    invocation::{Changes, Reload},
    service,
};

impl Run {
    /// Reads the configuration anew. Where it is wrong, everything stays as it is.
    pub(super) async fn reload(&mut self, reload: &mut Reload) {
        service::reloading();
        self.take_over(reload).await;
        service::ready();
    }

    async fn take_over(&mut self, reload: &mut Reload) {
        let Changes { wanted, filter, need_restart } = match reload.read() {
            Ok(changes) => changes,
            Err(error) => {
                service::status(&format!("the configuration stays as it was: {error}"));
                self.reloads.failed += 1;
                return log::warn!("the configuration stays as it was: {error}");
            }
        };
        self.reloads.done += 1;
        if !need_restart.is_empty() {
            log::warn!("{}: needs a restart, and stays as it was until then", need_restart.join(", "));
        }
        // Before the interfaces that it is for.
        let is_filtered = filter.is_some();
        if let Some(filter) = filter {
            self.replace_filter(&filter);
        }
        if let (Some(wanted), Origin::Live { hooks, interfaces, .. }) = (wanted, &mut self.origin) {
            service::status(&format!("mirroring {wanted}, as configured anew"));
            notice(format_args!("configuration read anew: mirroring {wanted}"));
            interfaces.want(wanted, hooks).await;
        } else if !is_filtered {
            notice(format_args!("configuration read anew: mirroring as before"));
        }
    }
}
