//! `--dump-filter`: what an expression means.

use super::{
    listing::Listing,
    translate::{Context, translate},
};
use crate::{
    cli::{Hook, MirrorArgs},
    config,
};

/// The classic program, and the function that the kernel gets to see.
///
/// # Errors
///
/// The expression is wrong, or too large; or there is none.
pub fn dump(args: &MirrorArgs) -> Result<String, String> {
    let filter = config::filter(&args.filter, args.filter_file.as_deref())?
        .ok_or("--dump-filter: there is no filter: add an expression, or --filter-file")?;
    let (context, hook) = match args.hook {
        Hook::Tc => (Context::Tc, "TC"),
        // As on kernels since 5.18.
        Hook::Xdp => (Context::Xdp { has_load_bytes: true }, "XDP"),
    };
    let insns = translate(&filter.program, context).map_err(|refusal| refusal.to_string())?;
    let classic = filter.program.insns().len();
    Ok(format!(
        "; classic BPF, {classic} instructions\n{}\n; for the kernel's {hook} hook, {} instructions: r0 is 1 for a frame that \
         is wanted, else 0\n{}",
        filter.program,
        insns.len(),
        Listing(&insns)
    ))
}
