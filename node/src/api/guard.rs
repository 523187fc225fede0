//! Who may use the API over TCP: whoever shows the token, and no web page that a browser was lured to.
//!
//! A page of another site can make a browser send requests to loopback addresses (its `Origin`, or `Sec-Fetch-Site`,
//! gives it away), and can have its own name resolve to a loopback address, so that the browser takes the node for a part
//! of the site (its name in `Host` gives it away).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use super::token::Token;
use super::types::Code;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What answers without a token.
const OPEN_PATHS: [&str; 2] = ["/livez", "/readyz"];
const METRICS_PATH: &str = "/metrics";

/// What a request must be like.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) token: Token,
    /// Names by which the node may be called besides those of loopback and its own address.
    pub(super) hosts: Vec<String>,
    /// Whether measurements are given without the token.
    pub(super) open_metrics: bool,
}

/// The address at which a connection came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local(pub(super) SocketAddr);

/// Lets a request through, or answers with a problem.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    Extension(Local(local)): Extension<Local>,
    request: Request,
    next: Next,
) -> Response {
    match guard.judge(request.uri(), request.headers(), local) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            let is_unauthorized = error.0.code == Code::Unauthorized;
            let mut response = error.into_response();
            if is_unauthorized {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

impl Guard {
    fn judge(&self, uri: &axum::http::Uri, headers: &HeaderMap, local: SocketAddr) -> Result<(), ApiError> {
        let host = self.host(uri, headers, local)?;
        check_site(headers, host)?;
        let path = uri.path();
        if OPEN_PATHS.contains(&path) || (path == METRICS_PATH && self.open_metrics) {
            return Ok(());
        }
        self.check_token(headers)
    }

    /// The name and port by which the node is called, if it is one of its own.
    fn host<'a>(
        &self,
        uri: &'a axum::http::Uri,
        headers: &'a HeaderMap,
        local: SocketAddr,
    ) -> Result<&'a str, ApiError> {
        let mut named = headers.get_all(header::HOST).iter();
        let (first, second) = (named.next().and_then(|value| value.to_str().ok()), named.next());
        let refuse = |detail: String| {
            let hint = "call it by localhost or its address; setting api.hosts takes further names";
            Err(ApiError::new(Code::HostRefused, detail).with_hint(hint))
        };
        let (Some(host), None) = (first, second) else { return refuse("the request must have one Host".into()) };
        // A request line with a whole URI would have the node take another host for it.
        for host in [Some(host), uri.authority().map(|authority| authority.as_str())].into_iter().flatten() {
            if !self.is_own(name_of(host), local.ip()) {
                return refuse(format!("this node is not called '{}'", shorten(host)));
            }
        }
        Ok(host)
    }

    fn is_own(&self, name: &str, local: IpAddr) -> bool {
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address {
            Ok(address) => address.is_loopback() || address.to_canonical() == local.to_canonical(),
            Err(_) => {
                name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|host| name.eq_ignore_ascii_case(host))
            }
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let detail = match token {
            Some(token) if self.token.is(token) => return Ok(()),
            Some(_) => "the token is not this node's",
            None => "over TCP every request needs the node's token, as Authorization: Bearer TOKEN",
        };
        Err(ApiError::new(Code::Unauthorized, detail).with_hint("it is in the file api.token of the node's home"))
    }
}

/// Refuses what a browser sends for a page that is not of this node.
fn check_site(headers: &HeaderMap, host: &str) -> Result<(), ApiError> {
    let refuse = |detail: String| {
        let hint = "call the node from a program, not from a page of another site";
        Err(ApiError::new(Code::CrossSite, detail).with_hint(hint))
    };
    for site in headers.get_all(SEC_FETCH_SITE) {
        if site != "same-origin" && site != "none" {
            return refuse("a page of another site caused this request".into());
        }
    }
    for origin in headers.get_all(header::ORIGIN) {
        let text = origin.to_str().unwrap_or_default();
        let own = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            return refuse(format!("this request comes from a page of '{}'", shorten(text)));
        }
    }
    Ok(())
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn judge(path: &str, headers: &[(&str, &str)], open_metrics: bool) -> Option<Code> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t"), TOKEN).unwrap();
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(folder.path().join("t"), mode).unwrap();
        let token = Token::load_or_create(&folder.path().join("t")).unwrap();
        let guard = Guard { token, hosts: vec!["node.example".into()], open_metrics };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let local = "192.0.2.7:7777".parse().unwrap();
        guard.judge(&path.parse().unwrap(), &map, local).err().map(|error| error.0.code)
    }

    #[test]
    fn only_own_names_own_pages_and_the_token_are_let_through() {
        let bearer = format!("Bearer {TOKEN}");
        let auth = ("authorization", bearer.as_str());
        for host in [
            "localhost",
            "LOCALHOST:7777",
            "127.0.0.1:7777",
            "127.0.0.2",
            "[::1]:7777",
            "192.0.2.7:7777",
            "Node.Example",
        ] {
            assert_eq!(judge("/v1/status", &[("host", host), auth], false), None, "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "192.0.2.8", "[::2]", "127.0.0.1.evil.example", "x:y"]
        {
            assert_eq!(judge("/livez", &[("host", host), auth], true), Some(Code::HostRefused), "{host}");
        }
        assert_eq!(judge("/livez", &[auth], false), Some(Code::HostRefused));
        let twice = [("host", "localhost"), ("host", "localhost"), auth];
        assert_eq!(judge("/livez", &twice, false), Some(Code::HostRefused));
        let host = ("host", "localhost:7777");
        assert_eq!(judge("http://evil.example/v1/status", &[host, auth], false), Some(Code::HostRefused));

        for (name, value) in [
            ("origin", "http://localhost:3000"),
            ("origin", "http://localhost"),
            ("origin", "null"),
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let code = judge("/livez", &[host, auth, (name, value)], true);
            assert_eq!(code, Some(Code::CrossSite), "{name}: {value}");
        }
        for (name, value) in [("origin", "http://localhost:7777"), ("sec-fetch-site", "none")] {
            assert_eq!(judge("/v1/status", &[host, auth, (name, value)], false), None, "{name}: {value}");
        }

        for token in ["", TOKEN, "Bearer", "Bearer ", "Basic 0123456789abcdef0123456789abcdef", "Bearer 0123"] {
            let code = judge("/v1/status", &[host, ("authorization", token)], false);
            assert_eq!(code, Some(Code::Unauthorized), "{token}");
        }
        assert_eq!(judge("/v1/status", &[host], false), Some(Code::Unauthorized));
        assert_eq!(judge("/livez", &[host], false), None);
        assert_eq!(judge("/readyz", &[host], false), None);
        assert_eq!(judge("/metrics", &[host], false), Some(Code::Unauthorized));
        assert_eq!(judge("/metrics", &[host], true), None);
        assert_eq!(judge("/livez/..", &[host], true), Some(Code::Unauthorized));
    }
}
