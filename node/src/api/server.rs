//! Serves the API on a Unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::ApiError;
use super::tcp::{self, TcpError, TcpOptions};
use super::types::{Code, MAX_BODY_BYTES, MAX_STREAMS};
use super::{
    causes, choreographies, consumers, events, health, leftover, log, openapi, peers, publish, rules, stability, views,
};
use crate::choreography::MAX_SCANS;
use crate::consumers::Consumers;
use crate::metrics::HttpMeters;
use crate::node::Node;
use crate::status::{ApiInfo, Converged, HoleStatus, NodeStatus};

/// Replays in order of time at once, at most: each may hold some 80 MB.
const MAX_REPLAYS: usize = 4;

/// Why the API cannot be served. Nobody can talk to the node then.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the API on {socket}: {source}; check that the home is on a disk that takes Unix sockets")]
pub struct ServerError {
    /// Where the socket was to be.
    pub socket: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// What the routes share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) node: Node,
    pub(super) consumers: Consumers,
    /// The source of events that name none.
    pub(super) source: Arc<str>,
    /// Cancelled when streams have to end.
    pub(super) closing: CancellationToken,
    /// Cancelled when somebody asks the node to stop.
    asked: CancellationToken,
    /// The right to verify: one at a time, as it reads the whole store.
    pub(super) verifying: Arc<Semaphore>,
    /// The right to stream events.
    streams: Arc<Semaphore>,
    /// The right to replay in order of time, which takes memory for what is listed and open.
    replays: Arc<Semaphore>,
    /// The right to read the log for a trace or a flow.
    pub(super) scans: Arc<Semaphore>,
    /// How it is reached over TCP, once it is.
    tcp: Arc<OnceLock<ApiInfo>>,
}

impl Api {
    /// The right to stream events, given back when it is dropped.
    pub(super) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{MAX_STREAMS} streams of events are open, which is as many as there may be");
            ApiError::new(Code::TooManyStreams, detail).with_hint("end some, or take several patterns in one")
        })
    }

    /// The right to replay in order of time, besides that to stream events.
    pub(super) fn replay_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.replays.clone().try_acquire_owned().map_err(|_| {
            let detail =
                format!("{MAX_REPLAYS} replays in order of time are under way, which is as many as there may be");
            ApiError::new(Code::TooManyStreams, detail).with_hint("wait for one to end, or leave out order=time")
        })
    }
}

/// A running server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    closing: CancellationToken,
    asked: CancellationToken,
    task: JoinHandle<io::Result<()>>,
    /// Everything but the counting, which stands before whatever may refuse a request.
    router: Router,
    meters: HttpMeters,
    tcp: Arc<OnceLock<ApiInfo>>,
    /// The tasks of connections over TCP.
    connections: TaskTracker,
}

impl Server {
    /// Begins to serve a node. The caller holds the home's lock, so that a socket that is there already is stale.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, node: Node) -> Result<Self, ServerError> {
        let listener = bind(socket).map_err(|source| ServerError { socket: socket.to_owned(), source })?;
        let (closing, asked) = (CancellationToken::new(), CancellationToken::new());
        let source = format!("/nodes/{}", node.id()).into();
        let meters = node.metrics().http.clone();
        let (verifying, streams) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(MAX_STREAMS)));
        let replays = Arc::new(Semaphore::new(MAX_REPLAYS));
        let tcp = Arc::new(OnceLock::new());
        let (closes, asks) = (closing.clone(), asked.clone());
        let consumers = node.consumers();
        // Nobody has to ask for it: violations are told in the log of the process.
        node.observer();
        let api = Api {
            node,
            consumers,
            source,
            closing: closes,
            asked: asks,
            verifying,
            streams,
            replays,
            scans: Arc::new(Semaphore::new(MAX_SCANS)),
            tcp: tcp.clone(),
        };
        let router = router(api);
        let drained = router.clone().layer(middleware::from_fn(leftover::drain));
        let counted = health::counted(drained, meters.clone());
        let serve = axum::serve(listener, counted).with_graceful_shutdown(closing.clone().cancelled_owned());
        let (socket, task, connections) = (socket.to_owned(), tokio::spawn(async { serve.await }), TaskTracker::new());
        Ok(Self { socket, closing, asked, task, router, meters, tcp, connections })
    }

    /// Begins to serve the same over TCP, to whoever shows the token. Returns how it is reached.
    ///
    /// # Errors
    /// When the token cannot be used or the address cannot be listened on.
    pub async fn listen(&self, options: &TcpOptions) -> Result<ApiInfo, TcpError> {
        let (router, meters) = (self.router.clone(), self.meters.clone());
        let address = tcp::serve(options, router, meters, self.closing.clone(), &self.connections).await?;
        let token_file = options.token_path.display().to_string();
        let info = ApiInfo { url: format!("http://{address}"), token_file };
        Ok(self.tcp.get_or_init(|| info).clone())
    }

    /// Resolves when somebody asks the node to stop.
    pub async fn asked_to_stop(&self) {
        self.asked.cancelled().await;
    }

    /// Takes no more requests and ends all streams.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Closes, gives the answers that are underway so long to be sent, and removes the socket.
    pub async fn finish(mut self, limit: Duration) {
        self.close();
        self.connections.close();
        let ended = async {
            // It fails only with the listener, and then there is nobody left to answer.
            let _ = (&mut self.task).await;
            self.connections.wait().await;
        };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!("requests were cut off, as they did not end in time");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.cancel();
        self.task.abort();
        // If it stays, the next start removes it.
        let _ = fs::remove_file(&self.socket);
    }
}

fn bind(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn router(api: Api) -> Router {
    let (routes, description) = routes().split_for_parts();
    let described = Router::new().route(openapi::PATH, axum::routing::get(openapi::serve(description)));
    routes.merge(described).fallback(not_found).method_not_allowed_fallback(wrong_method).with_state(api)
}

/// All routes with their descriptions.
pub(super) fn routes() -> OpenApiRouter<Api> {
    let limited = OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(holes))
        .routes(routes!(converged))
        .routes(routes!(shutdown))
        .routes(routes!(publish::publish))
        .routes(routes!(events::stream))
        .routes(routes!(views::list_view))
        .routes(routes!(views::view_value))
        .routes(routes!(stability::show_stability))
        .routes(routes!(stability::leave_out, stability::take_in))
        .routes(routes!(consumers::list_consumers))
        .routes(routes!(consumers::put, consumers::get, consumers::remove))
        .routes(routes!(consumers::seek))
        .routes(routes!(consumers::lag))
        .routes(routes!(consumers::fetch))
        .routes(routes!(consumers::stream::follow))
        .routes(routes!(consumers::ack))
        .routes(routes!(consumers::nack))
        .routes(routes!(consumers::extend))
        .routes(routes!(consumers::commit))
        .routes(routes!(consumers::dead))
        .routes(routes!(consumers::dead_letter))
        .routes(routes!(consumers::redrive))
        .routes(routes!(choreographies::publish_choreography, choreographies::list_choreographies))
        .routes(routes!(choreographies::show_choreography))
        .routes(routes!(choreographies::list_instances))
        .routes(routes!(choreographies::show_instance))
        .routes(routes!(causes::trace))
        .routes(routes!(causes::why))
        .routes(routes!(causes::flow))
        .routes(routes!(peers::join_topics, peers::leave_topics))
        .routes(routes!(rules::list_rules))
        .routes(routes!(rules::show, rules::set, rules::unset))
        .routes(routes!(peers::add))
        .routes(routes!(peers::forget))
        .routes(routes!(peers::block, peers::unblock))
        .routes(routes!(log::export))
        .routes(routes!(log::verify))
        .routes(routes!(log::backup))
        .routes(routes!(log::compact))
        .route_layer(middleware::from_fn(refuse_large_bodies))
        .route_layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    // An import is read a line at a time, so it may be of any length.
    let v1 = limited.routes(routes!(log::import));
    OpenApiRouter::with_openapi(openapi::about())
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .nest("/v1", v1)
}

/// Everything at a glance.
#[utoipa::path(get, path = "/status", tag = openapi::NODE, responses((status = 200, body = NodeStatus), ApiError))]
async fn status(State(api): State<Api>) -> Result<Json<NodeStatus>, ApiError> {
    let mut status = api.node.status().await?;
    status.node.api = api.tcp.get().cloned();
    Ok(Json(status))
}

/// What is known to be missing.
#[utoipa::path(get, path = "/holes", tag = openapi::LOG, responses((status = 200, body = Vec<HoleStatus>), ApiError))]
async fn holes(State(api): State<Api>) -> Result<Json<Vec<HoleStatus>>, ApiError> {
    Ok(Json(api.node.holes().await?))
}

/// Waits until every head that exists now is covered on both sides of every link.
#[utoipa::path(post, path = "/converged", tag = openapi::NODE, responses((status = 200, body = Converged), ApiError))]
async fn converged(State(api): State<Api>) -> Result<Json<Converged>, ApiError> {
    Ok(Json(api.node.converged().await?))
}

/// Tells the node to stop.
#[utoipa::path(
    post,
    path = "/shutdown",
    tag = openapi::NODE,
    responses((status = 202, description = "It will stop"), ApiError)
)]
async fn shutdown(State(api): State<Api>) -> StatusCode {
    api.asked.cancel();
    StatusCode::ACCEPTED
}

/// Refuses a body that says that it is too large.
async fn refuse_large_bodies(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_none_or(|length: u64| length <= MAX_BODY_BYTES as u64) {
        return next.run(request).await;
    }
    ApiError::body_too_large().into_response()
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no {}", uri.path()))
}

async fn wrong_method(uri: Uri) -> ApiError {
    ApiError::new(Code::MethodNotAllowed, format!("{} does not know this method", uri.path()))
}
