//! What can be asked for.

use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode, Uri,
    body::Bytes,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use tokio::sync::Mutex;

use super::desk::Visitor;
use crate::metrics::{self, host::Host};

type Answer = Response<Full<Bytes>>;

/// What answers.
pub struct Routes {
    visitor: Visitor,
    host: Mutex<Host>,
}

impl Routes {
    /// With what the control plane says.
    #[must_use]
    pub fn new(visitor: Visitor) -> Self {
        Self { visitor, host: Mutex::default() }
    }

    /// Answers a request.
    pub async fn answer(&self, method: &Method, uri: &Uri) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let answered = match uri.path() {
            "/livez" => self.visitor.ping().await.map(|()| text(StatusCode::OK, "ok\n")),
            "/readyz" => self.ready().await,
            "/metrics" => self.metrics().await,
            "/status" => self.status().await,
            "/flows" => self.flows().await,
            "/" => Ok(text(StatusCode::OK, "mirror-agent: /metrics /livez /readyz /status /flows\n")),
            _ => Ok(text(
                StatusCode::NOT_FOUND,
                "there is nothing of this name: /metrics /livez /readyz /status /flows\n",
            )),
        };
        answered.unwrap_or_else(|why| text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")))
    }

    /// The reasons are lines of an answer with 503.
    async fn ready(&self) -> Result<Answer, String> {
        let snapshot = self.visitor.snapshot().await?;
        let status = &snapshot.status;
        if status.ready { Ok(text(StatusCode::OK, "ok\n")) } else { Err(status.not_ready.join("\n")) }
    }

    async fn metrics(&self) -> Result<Answer, String> {
        let snapshot = self.visitor.snapshot().await?;
        let host = self.host.lock().await.read(&snapshot.status.interfaces);
        let exposition = metrics::exposition(&snapshot, &host).map_err(|error| error.to_string())?;
        Ok(answer(StatusCode::OK, metrics::CONTENT_TYPE, exposition))
    }

    async fn status(&self) -> Result<Answer, String> {
        let snapshot = self.visitor.snapshot().await?;
        let mut status = snapshot.status.clone();
        status.host = self.host.lock().await.read(&status.interfaces);
        let json = serde_json::to_string(&status).map_err(|error| error.to_string())?;
        Ok(answer(StatusCode::OK, "application/json", json))
    }

    async fn flows(&self) -> Result<Answer, String> {
        let flows = self.visitor.flows().await?;
        let json = serde_json::to_string(&flows).map_err(|error| error.to_string())?;
        Ok(answer(StatusCode::OK, "application/json", json))
    }
}

fn text(status: StatusCode, text: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.to_owned())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
