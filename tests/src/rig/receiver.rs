//! A real HTTP receiver for webhooks: keeps what is posted, and can be told to fail for a while.
//!
//! It must never answer before it has kept the body. The hard case is a sender that tries again: every try
//! is kept, with its idempotency key, so that a test can count.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

/// One received POST.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The `Idempotency-Key` header, empty when there was none.
    pub idempotency_key: String,
    /// The body.
    pub body: serde_json::Value,
}

#[derive(Default)]
struct Kept {
    posts: Vec<Posted>,
    failures_left: u32,
}

/// A receiver on a loopback port; ends when dropped.
pub struct Receiver {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Receiver {
    /// Starts one that answers its first `failures` posts with 503.
    ///
    /// # Panics
    /// When no port or thread can be had.
    pub fn start(failures: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let kept = Arc::new(Mutex::new(Kept { posts: Vec::new(), failures_left: failures }));
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let router = Router::new().route("/{*path}", post(keep)).with_state(Arc::clone(&kept));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, kept, runtime: Some(runtime) }
    }

    /// Where it listens; every path is taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every post that was answered with 200, in order.
    pub fn posts(&self) -> Vec<Posted> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).posts.clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn keep(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, body: String) -> StatusCode {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.failures_left > 0 {
        kept.failures_left -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Ok(body) = serde_json::from_str(&body) else { return StatusCode::BAD_REQUEST };
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok()).unwrap_or_default();
    kept.posts.push(Posted { idempotency_key: key.to_owned(), body });
    StatusCode::OK
}
