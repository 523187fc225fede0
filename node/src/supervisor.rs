//! Tells systemd how the node does, if it runs under it: `sd_notify(3)`. Without `NOTIFY_SOCKET` nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::node::Node;

/// The node answers, on so many addresses.
pub(crate) fn ready(node: &Node) {
    let addresses = node.addresses();
    let first = addresses.first().map(ToString::to_string).unwrap_or_default();
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {first}"))]);
}

/// The node has begun to stop.
pub(crate) fn stopping(why: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(why)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd how this node does");
    }
}

/// As long as the engine answers, tells systemd's watchdog so, twice in the time that it allows. Returns at once when
/// there is no watchdog.
pub(crate) async fn feed_watchdog(node: &Node) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    let mut pause = tokio::time::interval((limit / 2).max(Duration::from_millis(10)));
    loop {
        pause.tick().await;
        if node.answers_within(limit / 4).await {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::warn!("the engine did not answer in time: systemd's watchdog is not told that it is alive");
        }
    }
}
