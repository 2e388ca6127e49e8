//! Answers who asks, on a thread of its own with ordinary priority and no rights.
//!
//! Nobody is trusted: a connection has one request of a few kilobytes and a few seconds, and there are only so many
//! connections. Where there are more, the oldest is closed: whoever says nothing makes room for who does.

use std::{
    collections::VecDeque, convert::Infallible, io, net::TcpListener as StdTcpListener,
    os::unix::net::UnixListener as StdUnixListener, sync::Arc, thread, time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime::Builder,
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};

use super::{
    desk::{Desk, Visitor, desk},
    listen::Listeners,
    routes::Routes,
};
use crate::privileges;

/// Connections at a time, of each kind.
const CONNECTIONS_MAX: usize = 32;

/// Longest time for a request's first lines.
const REQUEST_TIME: Duration = Duration::from_secs(3);

/// Longest time for everything, until the whole answer is taken.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// Bytes of a request's first lines, at most.
const REQUEST_MAX: usize = 8 << 10;

/// Lines of it.
const HEADERS_MAX: usize = 64;

/// The pause after a connection that could not be accepted: out of descriptors, as a rule.
const RETRY_TIME: Duration = Duration::from_millis(100);

/// Starts to answer at `listeners`. What the control plane is asked for arrives at the desk.
///
/// # Errors
///
/// The system has no room for another thread.
pub fn start(tcp: Option<StdTcpListener>, unix: Option<StdUnixListener>) -> Result<Desk> {
    let (desk, visitor) = desk();
    if tcp.is_none() && unix.is_none() {
        return Ok(desk);
    }
    const SAY: &str = "cannot start to answer questions";
    let runtime = Builder::new_current_thread().enable_all().build().context(SAY)?;
    let (tcp, unix) = {
        let _context = runtime.enter();
        let tcp = tcp.map(|tcp| tcp.set_nonblocking(true).and_then(|()| TcpListener::from_std(tcp)));
        let unix = unix.map(|unix| unix.set_nonblocking(true).and_then(|()| UnixListener::from_std(unix)));
        (tcp.transpose().context(SAY)?, unix.transpose().context(SAY)?)
    };
    let answer = move || {
        // Strangers talk to it.
        privileges::keep(&[]);
        runtime.block_on(serve(tcp, unix, visitor));
    };
    thread::Builder::new().name("control".into()).spawn(answer).context(SAY)?;
    Ok(desk)
}

impl Listeners {
    /// Starts to answer.
    ///
    /// # Errors
    ///
    /// As for [`start`].
    pub fn serve(&mut self) -> Result<Desk> {
        start(self.tcp.take(), self.unix.take())
    }
}

async fn serve(tcp: Option<TcpListener>, unix: Option<UnixListener>, visitor: Visitor) {
    let routes = Arc::new(Routes::new(visitor));
    // Apart, so that nobody on the network keeps out who is on this host.
    let (mut by_tcp, mut by_unix) = (Connections::default(), Connections::default());
    loop {
        let accepted = tokio::select! {
            accepted = accept_tcp(tcp.as_ref()) => {
                accepted.map(|stream| by_tcp.add(tokio::spawn(answer(stream, Arc::clone(&routes)))))
            }
            accepted = accept_unix(unix.as_ref()) => {
                accepted.map(|stream| by_unix.add(tokio::spawn(answer(stream, Arc::clone(&routes)))))
            }
        };
        if let Err(error) = accepted {
            log::debug!("cannot accept a connection: {error}");
            sleep(RETRY_TIME).await;
        }
    }
}

async fn accept_tcp(
    listener: Option<&TcpListener>,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn accept_unix(
    listener: Option<&UnixListener>,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Those that are open, the oldest first.
#[derive(Debug, Default)]
struct Connections(VecDeque<AbortHandle>);

impl Connections {
    fn add(&mut self, connection: JoinHandle<()>) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection.abort_handle());
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Arc<Routes>) {
    let service = service_fn(|request: Request<Incoming>| {
        let routes = Arc::clone(&routes);
        async move {
            Ok::<Response<Full<Bytes>>, Infallible>(routes.answer(request.method(), request.uri()).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(REQUEST_MAX)
        .max_headers(HEADERS_MAX)
        // One that is closed after a while would be closed while somebody asks.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a connection has failed: {error}"),
        Err(_) => log::debug!("a connection took too long"),
    }
}
