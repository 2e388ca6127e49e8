//! Asks a running agent.

use std::{
    fmt::{self, Display, Formatter},
    io::ErrorKind,
    net::SocketAddr,
    os::unix::net::UnixStream as StdUnixStream,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime::Builder,
    time::timeout,
};

use super::folder;
use crate::status::Status;

/// Longest time for a whole answer: an agent has it ready in milliseconds.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Longest answer, in bytes: there are agents with thousands of interfaces.
const ANSWER_MAX: usize = 32 << 20;

/// Where a running agent can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// By the Unix socket at this path.
    Socket(PathBuf),
    /// By TCP, at what `--metrics` was given.
    Address(SocketAddr),
}

impl FromStr for Agent {
    type Err = String;

    /// Takes `http://ADDR:PORT`, `ADDR:PORT`, a path with a `/`, or the number of a process.
    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("http://").unwrap_or(text);
        if let Ok(address) = bare.trim_end_matches('/').parse() {
            return Ok(Self::Address(address));
        }
        if let Ok(pid) = text.parse() {
            return Ok(Self::Socket(folder::socket_of(pid)));
        }
        if text.contains('/') && !text.contains("://") {
            return Ok(Self::Socket(text.into()));
        }
        Err("neither http://ADDRESS:PORT, nor a process's number, nor the path of a socket".into())
    }
}

impl Display for Agent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Address(address) => write!(f, "http://{address}"),
        }
    }
}

/// The agents that run on this host, in the order of their processes' numbers: those whose sockets somebody listens at.
#[must_use]
pub fn running() -> Vec<Agent> {
    let sockets = folder::sockets().into_iter().map(|(_, path)| path);
    // A refusal is certain. Of one that may not be asked, asking will say why.
    let is_gone = |path: &PathBuf| {
        matches!(StdUnixStream::connect(path),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound))
    };
    sockets.filter(|path| !is_gone(path)).map(Agent::Socket).collect()
}

impl Agent {
    /// The agent with this process's number, where it has its usual socket.
    #[must_use]
    pub fn by_process(pid: u32) -> Self {
        Self::Socket(folder::socket_of(pid))
    }

    /// What the agent answers to a GET of `path`, such as `/status`. Waits at most two seconds. Not to be called from
    /// within a tokio runtime: [`Self::get_async`] is.
    ///
    /// # Errors
    ///
    /// In one line: nobody answers, or not in time, or with another status than 200.
    pub fn get(&self, path: &str) -> Result<Bytes> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot ask an agent")?;
        runtime.block_on(self.get_async(path))
    }

    /// As [`Self::get`], of an answer in JSON.
    ///
    /// # Errors
    ///
    /// As for [`Self::get`], and the answer is of another form.
    pub fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.get(path)?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("{self} answers to {path} with something else: is it a mirror-agent?"))
    }

    /// The run's state.
    ///
    /// # Errors
    ///
    /// As for [`Self::get_json`].
    pub fn status(&self) -> Result<Status> {
        self.get_json("/status")
    }

    /// As [`Self::get`], within a runtime.
    ///
    /// # Errors
    ///
    /// As for [`Self::get`].
    pub async fn get_async(&self, path: &str) -> Result<Bytes> {
        let answer = async {
            match self {
                Self::Socket(socket) => ask(UnixStream::connect(socket).await?, path).await,
                Self::Address(address) => ask(TcpStream::connect(address).await?, path).await,
            }
        };
        let asking = || format!("cannot ask the agent at {self}");
        let (status, body) = match timeout(ANSWER_TIME, answer).await {
            Ok(answer) => answer.with_context(asking)?,
            Err(_) => bail!("{}: no answer within {} s", asking(), ANSWER_TIME.as_secs()),
        };
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            bail!("{}: it answers to {path} with {status}: {}", asking(), text.lines().next().unwrap_or(""));
        }
        Ok(body)
    }
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        // HTTP/1.1 wants the header, whatever it says.
        let request = Request::get(path).header(HOST, "mirror-agent").body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // What it has brought can still be read.
        _ = &mut connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    #[test]
    fn names_of_agents() {
        let address = |text: &str| Agent::Address(text.parse().unwrap());
        for (text, agent) in [
            ("http://127.0.0.1:9", address("127.0.0.1:9")),
            ("http://[::1]:9/", address("[::1]:9")),
            ("10.0.0.2:9", address("10.0.0.2:9")),
            ("77", Agent::Socket("/run/mirror-agent/77.sock".into())),
            ("./a.sock", Agent::Socket("./a.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(agent), "{text}");
        }
        for text in ["", "sensor", "https://10.0.0.2:9", "ftp://x/y", "-1"] {
            assert!(text.parse::<Agent>().is_err(), "{text}");
        }
    }

    /// What an agent is told that asks somebody who answers with `answer`.
    fn told(answer: &'static [u8]) -> Result<Bytes> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let told = Agent::Address(address).get("/x");
        server.join().unwrap();
        told
    }

    #[test]
    fn answers_and_refusals() {
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap(), "hi");
        assert_eq!(told(b"HTTP/1.0 200 OK\r\n\r\nhi").unwrap(), "hi");
        for (answer, says) in [
            (&b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nno\nyet"[..], "503"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "cannot ask"),
            (b"SSH-2.0-x\r\n", "cannot ask"),
            (b"", "cannot ask"),
        ] {
            let error = format!("{:#}", told(answer).unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
        let nobody = Agent::Socket("/nonexistent/1.sock".into()).get("/x").unwrap_err();
        assert!(format!("{nobody:#}").contains("/nonexistent/1.sock: No such file"), "{nobody:#}");
    }
}
