//! Python's web server in a host, ended with its guard.

use std::{
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::host::Host;

/// The port it listens on.
const PORT: u16 = 8000;

/// The server, for as long as this lives.
#[derive(Debug)]
pub struct WebServer(Child);

impl WebServer {
    /// Serves the files of `folder` on port 8000 of an address of `host`, and waits until it does.
    ///
    /// # Panics
    /// Where it does not.
    #[must_use]
    pub fn start(host: &Host, address: &str, folder: &Path) -> Self {
        let child = host
            .command("python3")
            .args(["-m", "http.server", &PORT.to_string(), "--bind", address, "--directory"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot run python3");
        let server = Self(child);
        let address = address.to_owned();
        let deadline = Instant::now() + Duration::from_secs(10);
        host.within(move || {
            while let Err(error) = TcpStream::connect((&*address, PORT)) {
                assert!(Instant::now() < deadline, "no web server on {address}: {error}");
                thread::sleep(Duration::from_millis(50));
            }
        });
        server
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
