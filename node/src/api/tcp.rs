//! The API over TCP: bounded connections, each with bounds of its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::response::IntoResponse;
use axum::{Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::add_extension::AddExtension;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::guard::{self, Guard, Local};
use super::health;
use super::leftover;
use super::problem::{self, ApiError};
use super::token::Token;
use super::types::{Code, PROBLEM_CONTENT_TYPE};
use crate::identity::KeyError;
use crate::metrics::HttpMeters;

/// Connections at once, at most. Further ones are told so and closed.
const MAX_CONNECTIONS: usize = 256;
/// Connections that are being told so, at most. Further ones are closed.
const MAX_REFUSALS: usize = 32;
/// How long telling may take.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a request's line and headers, at most.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Headers of a request, at most.
const MAX_HEADERS: usize = 64;
/// How long a request's headers may take to come, and a connection to be idle.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How long nothing of a request's body may come.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// After the system refused to take a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to serve the API over TCP.
#[derive(Debug, Clone)]
pub struct TcpOptions {
    /// Where to listen. With port 0 the system chooses one.
    pub listen: SocketAddr,
    /// Names by which the node may be called besides those of loopback and its own address.
    pub hosts: Vec<String>,
    /// Whether measurements are given without the token.
    pub open_metrics: bool,
    /// The file with the token, which is made if it does not exist.
    pub token_path: PathBuf,
}

/// Why the API cannot be served over TCP.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] KeyError),
    /// The address cannot be listened on.
    #[error("cannot serve the API on {address}: {source}; choose another address with --api, or stop who uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens, and serves in a task until `closing` is cancelled. Returns where.
pub(super) async fn serve(
    options: &TcpOptions,
    router: Router,
    meters: HttpMeters,
    closing: CancellationToken,
    tracker: &TaskTracker,
) -> Result<SocketAddr, TcpError> {
    let failed = |source| TcpError::Listen { address: options.listen, source };
    let token = Token::load_or_create(&options.token_path)?;
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "the API is open to other machines, and what it sends and takes, the token too, is NOT ENCRYPTED: anybody on \
             the way can read it and use the node; put a proxy with TLS before it, or listen on 127.0.0.1"
        );
    }
    let guard = Guard { token, hosts: options.hosts.clone(), open_metrics: options.open_metrics };
    let router = router
        .layer(RequestBodyTimeoutLayer::new(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
        .layer(middleware::from_fn(leftover::drain));
    let door = Door { router: health::counted(router, meters.clone()), meters, closing, tasks: tracker.clone() };
    tracker.spawn(async move { door.accept(&listener).await });
    Ok(address)
}

/// What every connection gets.
struct Door {
    router: Router,
    meters: HttpMeters,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Door {
    async fn accept(&self, listener: &TcpListener) {
        let Self { router, meters, closing, tasks } = self;
        let (connections, refusals) =
            (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Semaphore::new(MAX_REFUSALS)));
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                accepted = listener.accept() => accepted.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))),
            };
            let (local, stream) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot take a connection to the API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match connections.clone().try_acquire_owned() {
                Ok(permit) => {
                    let connection = converse(stream, local, router.clone(), closing.clone());
                    tasks.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    meters.problem(&problem::name_of(Code::TooManyConnections));
                    if let Ok(permit) = refusals.clone().try_acquire_owned() {
                        tasks.spawn(async move {
                            // Whoever does not want to know is closed all the same.
                            let _ = tokio::time::timeout(REFUSAL_LIMIT, refuse(stream)).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
    }
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, local: SocketAddr, router: Router, closing: CancellationToken) {
    // Events are to go out at once; without it they only go out later.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(AddExtension::new(router, Local(local)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the API broke off");
    }
}

/// Tells a client that there are too many.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let detail = format!("{MAX_CONNECTIONS} connections are open, which is as many as there may be");
    let error = ApiError::new(Code::TooManyConnections, detail).with_hint("close some, or come again later");
    let body = serde_json::to_string(&*error.0).unwrap_or_default();
    let status = error.into_response().status();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_CONTENT_TYPE}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await?;
    // Closing before the request was read would take the answer back.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A connection that fails when the other side takes nothing for [`WRITE_LIMIT`].
struct Patient {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    waits: bool,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Self { stream, deadline: Box::pin(tokio::time::sleep(WRITE_LIMIT)), waits: false }
    }

    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        if !std::mem::replace(&mut self.waits, true) {
            self.deadline.as_mut().reset(Instant::now() + WRITE_LIMIT);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for too long")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buf);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
