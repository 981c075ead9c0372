//! The HTTP side: health, readiness, metrics, and whatever routes the API and the console add.
//! It must never change anything by itself: its own routes are read only.
//! The hard case is a stop while somebody reads: no request is taken any more, those under way are finished.

pub mod listener;
mod stream;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use vedette_aggregator_core::Snapshot;

use crate::api::metrics_guard;
use crate::auth::Gate;
use crate::listen::stopped;
use crate::metrics::MetricsPage;
use listener::WebListener;
use stream::WebStream;

/// What health and metrics are read from.
#[derive(Debug, Clone)]
pub struct Health {
    /// Whether records are being taken and committed.
    pub ready: Arc<AtomicBool>,
    /// The metrics.
    pub page: Arc<MetricsPage>,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}/tcp: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the operating system says.
    pub source: std::io::Error,
}

/// Binds the address.
///
/// # Errors
/// [`BindError`] when it is taken or not ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// The routes that this file answers. Health is for everybody; the metrics may be behind the gate.
pub fn router(health: Health, gate: Gate) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(gate, metrics_guard))
        .route("/-/healthy", get(async || "healthy\n"))
        .route("/-/ready", get(ready))
        .with_state(health)
}

/// Serves `router` until a stop.
///
/// # Errors
/// What the operating system says when it takes connections no more.
pub async fn serve(
    listener: WebListener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let stop = async move { stopped(&mut stopping).await };
    // What is said soon after something else, as an answer's end, should not wait for it.
    let listener = listener.tap_io(WebStream::send_at_once);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

async fn ready(State(health): State<Health>) -> Response {
    if health.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the store does not take commits\n").into_response()
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    match health.page.render() {
        Ok(text) => ([(header::CONTENT_TYPE, MetricsPage::CONTENT_TYPE)], text).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The core's own counters, read from its latest picture.
pub struct CoreCounts(watch::Receiver<Arc<Snapshot>>);

impl CoreCounts {
    /// Reads from `snapshots`.
    #[must_use]
    pub const fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self(snapshots)
    }
}

impl fmt::Debug for CoreCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreCounts").finish_non_exhaustive()
    }
}

impl prometheus_client::collector::Collector for CoreCounts {
    fn encode(&self, mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeMetric;
        use prometheus_client::metrics::MetricType;
        use prometheus_client::metrics::counter::ConstCounter;

        let counts = self.0.borrow().counts.clone();
        let totals = [
            ("core_summaries", "Summaries applied", counts.summaries),
            ("core_roll_ups", "Roll-ups applied", counts.roll_ups),
            ("core_deviations", "Deviations applied", counts.deviations),
            ("core_windows_judged", "Windows judged", counts.windows_judged),
            (
                "core_history_windows",
                "Windows judged as history, for everything in them came late",
                counts.history_windows,
            ),
        ];
        for (name, help, value) in totals {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "What the core left out, by reason";
        let mut left_out = encoder.encode_descriptor("core_left_out", help, None, MetricType::Counter)?;
        for (reason, count) in counts.left_out() {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(count).encode(left_out.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
