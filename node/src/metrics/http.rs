//! What the API counts.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::latency;

/// A request by its route, which is one of those that the code names, by method, and by status.
type Request = [(&'static str, String); 3];

type Durations = Family<[(&'static str, String); 1], Histogram, fn() -> Histogram>;

/// Handles of what the API counts. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct HttpMeters {
    requests: Family<Request, Counter>,
    duration: Durations,
    problems: Family<[(&'static str, String); 1], Counter>,
}

impl Default for HttpMeters {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(latency),
            problems: Family::default(),
        }
    }
}

impl HttpMeters {
    /// A request was answered, so long after it came. `route` and `method` are of those that the server knows.
    pub(crate) fn answered(&self, route: &str, method: &str, status: u16, took: Duration) {
        let labels = [("route", route.to_owned()), ("method", method.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.duration.get_or_create(&[("route", route.to_owned())]).observe(took.as_secs_f64());
    }

    /// A request was refused or failed, with the code of its problem.
    pub(crate) fn problem(&self, code: &str) {
        self.problems.get_or_create(&[("code", code.to_owned())]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests that the API answered", self.requests.clone());
        let duration = "Seconds from a request until its answer began; what a stream sends later is not counted";
        registry.register("http_request_duration_seconds", duration, self.duration.clone());
        let problems = "Requests that were refused or failed, by the code of the problem";
        registry.register("http_problems", problems, self.problems.clone());
    }
}
