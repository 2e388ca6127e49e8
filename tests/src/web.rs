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

/// As `python3 -m http.server`, which asks a name server for its own name first: here there is none.
const SERVER: &str = "
import functools, http.server, socket, socketserver, sys
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[3])
Server((sys.argv[1], int(sys.argv[2])), handler).serve_forever()
";

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
            .args(["-c", SERVER, address, &PORT.to_string()])
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
