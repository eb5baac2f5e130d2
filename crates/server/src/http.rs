//! HTTP: `/metrics` for Prometheus, `/livez` and `/readyz` for orchestration, `/cluster` for who asks.
//!
//! Liveness says that the process answers; readiness that reads and writes are served. Neither asks
//! anything outside of the process. Answers from before the replay on; runs on a thread and runtime
//! of its own. `/metrics` can be put under a token, the other two stay open.

mod tls_door;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use subtle::ConstantTimeEq;
use tokio::task::JoinSet;

use crate::{metrics::render, startup::Startup, users::digest, worker::Door};
use tls_door::TlsDoor;

/// How often the server looks whether the node stops.
const STOP_POLL: Duration = Duration::from_millis(100);

/// The loop of the HTTP thread.
pub(crate) fn run(startup: &Arc<Startup>, doors: Vec<Door>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for HTTP"),
    };
    runtime.block_on(async move {
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/cluster", get(cluster))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(startup.clone());
        let mut serving = JoinSet::new();
        for door in doors {
            serving.spawn(serve(startup.clone(), door, app.clone()));
        }
        while !startup.is_over() {
            while let Some(Ok(Err(error))) = serving.try_join_next() {
                tracing::error!(%error, "HTTP ended");
            }
            tokio::time::sleep(STOP_POLL).await;
        }
    });
}

async fn serve(startup: Arc<Startup>, door: Door, app: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(door.listener)?;
    match &startup.certificates {
        Some(certificates) if door.tls => {
            let certificates = certificates.clone();
            axum::serve(TlsDoor::new(listener, certificates, startup.clone()), app).await
        }
        _ => axum::serve(listener, app).await,
    }
}

async fn ready(State(startup): State<Arc<Startup>>) -> impl IntoResponse {
    let why = match startup.node() {
        Some(node) if node.is_ready() => return (StatusCode::OK, "ok\n".to_string()),
        Some(node) => node.why_not_ready(),
        None => startup.tell(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"))
}

async fn metrics(State(startup): State<Arc<Startup>>, headers: HeaderMap) -> Response {
    if !may_read_metrics(&startup.config.http_token, &headers) {
        let asks = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, asks, "a token is asked for\n").into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render(&startup)).into_response()
}

/// The nodes of the cluster and who owns what, as JSON.
async fn cluster(State(startup): State<Arc<Startup>>, headers: HeaderMap) -> Response {
    if !may_read_metrics(&startup.config.http_token, &headers) {
        let asks = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, asks, "a token is asked for\n").into_response();
    }
    let Some(members) = startup.members.get() else {
        return (StatusCode::NOT_FOUND, "this node is not part of a cluster\n").into_response();
    };
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, format!("{:#}\n", members.status())).into_response()
}

/// Whether the request brings the token, if there is one. Digests are compared, so that the time tells
/// nothing of either.
fn may_read_metrics(token: &str, headers: &HeaderMap) -> bool {
    if token.is_empty() {
        return true;
    }
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let (scheme, given) = given.split_at_checked("Bearer ".len()).unwrap_or_default();
    let same = digest(given).as_bytes().ct_eq(digest(token.as_bytes()).as_bytes());
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_the_metrics() -> Result<(), header::InvalidHeaderValue> {
        let with = |value: &str| -> Result<HeaderMap, header::InvalidHeaderValue> {
            Ok(HeaderMap::from_iter([(header::AUTHORIZATION, value.parse()?)]))
        };
        assert!(may_read_metrics("", &HeaderMap::new()));
        assert!(may_read_metrics("secret", &with("Bearer secret")?));
        assert!(may_read_metrics("secret", &with("bearer secret")?));
        for wrong in ["", "secret", "Bearer", "Bearer ", "Bearer Secret", "Basic secret", "é"] {
            assert!(!may_read_metrics("secret", &with(wrong)?), "{wrong:?}");
        }
        assert!(!may_read_metrics("secret", &HeaderMap::new()));
        Ok(())
    }
}
