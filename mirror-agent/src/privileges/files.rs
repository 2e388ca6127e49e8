//! Files that are opened long after the start: root reads those of others only with a capability.

use std::{fs::File, io, path::PathBuf, thread};

use caps::Capability;

use super::sets::{has, keep};

/// Whether one of `files` cannot be read but by who may read everything.
///
/// # Errors
///
/// The system has no room for another thread.
pub fn need_override<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> io::Result<bool> {
    // One that is no file may wait for its writer, and is opened once.
    let files: Vec<PathBuf> = files.into_iter().filter(|path| path.is_file()).cloned().collect();
    let asks = thread::Builder::new().spawn(move || {
        keep(&[]);
        files
            .iter()
            .any(|path| File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied))
    })?;
    Ok(asks.join().unwrap_or(false))
}

/// The capability that helps: the smaller one, where the calling thread has it.
pub(super) fn override_in_hand() -> Capability {
    if has(Capability::CAP_DAC_READ_SEARCH) {
        Capability::CAP_DAC_READ_SEARCH
    } else {
        Capability::CAP_DAC_OVERRIDE
    }
}

/// Gives up what a thread that reads these `files` has no use for.
///
/// # Errors
///
/// As for [`need_override`].
pub fn keep_to_read(files: &[PathBuf]) -> io::Result<()> {
    if need_override(files)? {
        keep(&[override_in_hand()]);
    } else {
        keep(&[]);
    }
    Ok(())
}
