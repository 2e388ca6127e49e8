//! Where a run can be asked: its Unix socket and its TCP port, bound before anything is attached.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};

use super::folder;
use crate::config::Control;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// What a run is asked at.
#[derive(Debug, Default)]
pub struct Listeners {
    /// At `--metrics`.
    pub tcp: Option<TcpListener>,
    /// At `--control`.
    pub unix: Option<UnixListener>,
    /// Removes the Unix socket in the end.
    pub socket: Option<SocketFile>,
}

/// A Unix socket's place in the file system, removed when this is dropped if it is still that socket's.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    id: (u64, u64),
}

impl Listeners {
    /// Binds what is asked for. Where the usual folder cannot be had, there is no Unix socket.
    ///
    /// # Errors
    ///
    /// An address, or a path that the user has named, cannot be had.
    pub fn bind(metrics: Option<SocketAddr>, control: &Control) -> Result<Self> {
        let tcp = metrics.map(bind_tcp).transpose()?;
        let bound = match control {
            Control::None => None,
            Control::Usual => {
                bind_usual().inspect_err(|error| log::debug!("no control socket: {error:#}")).ok()
            }
            Control::At(path) => {
                let bound = bind_unix(path);
                Some(bound.with_context(|| format!("--control {}: cannot listen there", path.display()))?)
            }
        };
        let (unix, socket) = bound.unzip();
        Ok(Self { tcp, unix, socket })
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("--metrics {address}: cannot listen there: name a free port of an address of this host")
    })
}

/// The socket of this process in the usual folder, from which those of agents that are gone are removed.
fn bind_usual() -> Result<(UnixListener, SocketFile)> {
    let path = Path::new(folder::FOLDER);
    let made = DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make the folder {}", path.display()));
        }
        _ => {}
    }
    let metadata =
        fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    // SAFETY: geteuid has no preconditions and touches no memory.
    if !metadata.is_dir() || metadata.uid() != unsafe { libc::geteuid() } {
        bail!("{} is somebody else's", path.display());
    }
    for (_, socket) in folder::sockets() {
        if is_left(&socket) {
            log::debug!("removing {}, which an agent that is gone has left", socket.display());
            // Another agent that starts at this moment may have done so.
            let _ = fs::remove_file(&socket);
        }
    }
    bind_unix(&folder::socket_of(std::process::id()))
}

/// Whether nobody listens at a socket. They are put in their place by [`bind_unix`] when somebody does.
fn is_left(path: &Path) -> bool {
    matches!(UnixStream::connect(path), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// A socket that nobody but its owner can connect to, from the moment on that it is there.
fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("there is a file that is no socket: name another path");
        }
        Ok(_) if !is_left(path) => bail!("another program listens there: name another path"),
        _ => {}
    }
    let mut name = path.file_name().context("it names no file")?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    // From a run that was killed in between, with the same number.
    let _ = fs::remove_file(&fresh);
    let result = listen_at(&fresh).and_then(|listener| {
        fs::rename(&fresh, path)?;
        let metadata = fs::symlink_metadata(path)?;
        Ok((listener, SocketFile { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) }))
    });
    if result.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    Ok(result?)
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.id);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::debug!("removing {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A folder that is removed with what is in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mirror-listen-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn socket_is_its_owners_and_goes_with_the_run() {
        let folder = Folder::new("owner");
        let path = folder.0.join("a.sock");
        let listeners = Listeners::bind(None, &Control::At(path.clone())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        let taken = Listeners::bind(None, &Control::At(path.clone())).unwrap_err();
        assert!(format!("{taken:#}").contains("another program listens"), "{taken:#}");
        drop(listeners);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_is_replaced_and_what_is_no_socket_is_not() {
        let folder = Folder::new("left");
        let path = folder.0.join("a.sock");
        let before = Listeners::bind(None, &Control::At(path.clone())).unwrap();
        // As after a kill.
        std::mem::forget(before.socket);
        drop(before.unix);
        assert!(is_left(&path));
        let after = Listeners::bind(None, &Control::At(path.clone())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(after);
        fs::write(&path, "precious").unwrap();
        assert!(Listeners::bind(None, &Control::At(path.clone())).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let nowhere = Control::At(folder.0.join("no/such/folder.sock"));
        let error = format!("{:#}", Listeners::bind(None, &nowhere).unwrap_err());
        assert!(error.contains("--control") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn address_in_use_is_told() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let error = format!("{:#}", Listeners::bind(Some(address), &Control::None).unwrap_err());
        assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
    }
}
