//! What is left of a request's body when the request is refused: read for a while, so that its sender gets to the answer.
//!
//! A connection that is closed with bytes that nobody read is reset, and a reset takes the answer back (RFC 9112,
//! section 9.6). A client that writes its whole body before it reads would learn only that its connection broke.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

/// Bytes of a body that is refused that are read all the same, and how long.
const MAX_DRAIN_BYTES: usize = 64 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Has a request answered; when it is refused with a part of its body unread, holds the answer back until that is read.
pub(super) async fn drain(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Such a client sends nothing before it is told to.
    let waits = request.headers().contains_key(header::EXPECT);
    let (give_back, mut left) = oneshot::channel();
    let request = request.map(|body| Body::new(Lent { body, is_begun: !waits, give_back: Some(give_back) }));
    let response = next.run(request).await;
    if !response.status().is_success()
        && let Ok(body) = left.try_recv()
    {
        // Who takes longer may not get to read it.
        let _ = tokio::time::timeout(DRAIN_LIMIT, read(body)).await;
    }
    response
}

async fn read(body: Body) {
    let (mut body, mut drained) = (body.into_data_stream(), 0);
    while let Some(Ok(part)) = body.next().await
        && drained < MAX_DRAIN_BYTES
    {
        drained += part.len();
    }
}

/// A body that comes back when whoever got it has no more use for it.
struct Lent {
    body: Body,
    is_begun: bool,
    give_back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_begun = true;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take()
            && self.is_begun
            && !self.body.is_end_stream()
        {
            // Nobody waits for it any more when the request itself is gone.
            let _ = give_back.send(std::mem::take(&mut self.body));
        }
    }
}
