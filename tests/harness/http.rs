//! Talks HTTP to a node's API, as a service in any language does: with a client that knows nothing of Roundelay.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, header};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::DEADLINE;

/// A client of one node.
pub(crate) struct Http {
    runtime: Runtime,
    client: reqwest::Client,
    base: String,
}

/// What a node answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// Over the socket in a home.
    pub(crate) fn over_socket(home: &Path) -> Self {
        Self::new(reqwest::Client::builder().unix_socket(home.join("api.sock")), "http://localhost")
    }

    /// Over TCP, with these headers in each request.
    pub(crate) fn over_tcp(base: &str, headers: header::HeaderMap) -> Self {
        Self::new(reqwest::Client::builder().default_headers(headers), base)
    }

    fn new(builder: reqwest::ClientBuilder, base: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let client = builder.no_proxy().build().expect("an HTTP client");
        Self { runtime: runtime.expect("a runtime"), client, base: base.to_owned() }
    }

    /// Sends a request and reads the answer to its end.
    #[track_caller]
    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.runtime.block_on(async {
            let response = request.timeout(DEADLINE).send().await?;
            let status = response.status().as_u16();
            let content_type = response.headers().get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            Ok::<_, reqwest::Error>(Answer { status, content_type, body: response.bytes().await?.to_vec() })
        });
        answer.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// Posts a body; none when the connection fails or breaks before the whole answer is there.
    pub(crate) fn try_post(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Option<u16> {
        let request = self.client.post(format!("{}{path}", self.base)).header(header::CONTENT_TYPE, content_type);
        self.runtime.block_on(async {
            let response = request.body(body.into()).timeout(DEADLINE).send().await.ok()?;
            let status = response.status().as_u16();
            response.bytes().await.ok().map(|_| status)
        })
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "")
    }

    /// Posts a body of a type; an empty type is none.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        match content_type {
            "" => self.send(Method::POST, path, &[], body),
            _ => self.send(Method::POST, path, &[("content-type", content_type)], body),
        }
    }

    /// Begins a request whose answer may never end, and gives its bytes as they come.
    #[track_caller]
    pub(crate) fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Chunks<'_> {
        let mut request = self.client.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.runtime.block_on(request.send()).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        Chunks { http: self, response }
    }
}

/// The body of an answer that goes on.
pub(crate) struct Chunks<'a> {
    http: &'a Http,
    response: reqwest::Response,
}

impl Chunks<'_> {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The next bytes: none at the end, or when nothing comes within `limit`.
    pub(crate) fn next_within(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let next = self.response.chunk();
        let next = self.http.runtime.block_on(async { tokio::time::timeout(limit, next).await });
        next.ok()?.expect("the stream goes on").map(|bytes| bytes.to_vec())
    }
}

impl Answer {
    /// Fails unless the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status; body: {}", self.text());
        self
    }

    /// Fails unless it is a well-formed problem of this kind; returns it.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Value {
        let answer = self.expect(status);
        assert_eq!(answer.content_type, "application/problem+json");
        let problem = answer.json();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()), "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {problem}");
        }
        problem
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A JSON value a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}
