//! A thread that owns one open [`Store`] and does what it is asked, one request after the other.
//! It must never run on the async runtime: a commit waits for the disk. The queue is bounded; who asks waits when it is full.
//! The hard case is the end: when every handle is gone the thread finishes what is queued, then closes the database.

use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::Store;
use crate::limits::STORE_QUEUE_MAX;

type Request = Box<dyn FnOnce(&mut Store) + Send>;

/// The store's thread is gone, because it panicked or the process is ending.
#[derive(Debug, thiserror::Error)]
#[error("the store has stopped")]
pub struct StoreClosed;

/// Asks the store's thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    requests: mpsc::Sender<Request>,
}

/// The store's thread.
#[derive(Debug)]
pub struct StoreThread {
    thread: JoinHandle<()>,
}

impl StoreThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(mut store: Store, name: &str) -> std::io::Result<(Self, StoreHandle)> {
        let (requests, mut queue) = mpsc::channel::<Request>(STORE_QUEUE_MAX);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(request) = queue.blocking_recv() {
                request(&mut store);
            }
        })?;
        Ok((Self { thread }, StoreHandle { requests }))
    }

    /// Waits until everything queued is done; every handle must be gone.
    ///
    /// # Errors
    /// [`StoreClosed`] when the thread had panicked.
    pub fn join(self) -> Result<(), StoreClosed> {
        self.thread.join().map_err(|_| StoreClosed)
    }
}

impl StoreHandle {
    /// Runs `work` on the store's thread and gives its result.
    ///
    /// # Errors
    /// [`StoreClosed`] when the thread is gone.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, StoreClosed> {
        let (answer, result) = oneshot::channel();
        // An asker that went away no longer wants the answer; the work is done all the same.
        let request: Request = Box::new(move |store| drop(answer.send(work(store))));
        self.requests.send(request).await.map_err(|_| StoreClosed)?;
        result.await.map_err(|_| StoreClosed)
    }
}
