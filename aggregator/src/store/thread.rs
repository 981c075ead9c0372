//! A thread that owns one open [`Store`] and does what it is asked, one request after the other.
//! It must never run on the async runtime: a commit waits for the disk. The queue is bounded; who asks waits when it is full.
//! The hard case is the end: somebody may hold a handle for as long as a reader's connection stands. So the thread is told to close: it
//! finishes what was queued before, closes the database, and whoever asks later hears that it is closed.

use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::Store;
use crate::limits::STORE_QUEUE_MAX;

type Work = Box<dyn FnOnce(&mut Store) + Send>;

enum Request {
    Work(Work),
    Close,
}

/// The store's thread is gone, because it panicked or the process is ending.
#[derive(Debug, thiserror::Error)]
#[error("the store has stopped")]
pub struct StoreClosed;

/// Asks the store's thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    requests: mpsc::Sender<Request>,
}

/// The store's thread. It also ends when this and every handle are gone.
#[derive(Debug)]
pub struct StoreThread {
    thread: JoinHandle<()>,
    requests: mpsc::Sender<Request>,
}

impl StoreThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(mut store: Store, name: &str) -> std::io::Result<(Self, StoreHandle)> {
        let (requests, mut queue) = mpsc::channel::<Request>(STORE_QUEUE_MAX);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(Request::Work(work)) = queue.blocking_recv() {
                work(&mut store);
            }
        })?;
        Ok((Self { thread, requests: requests.clone() }, StoreHandle { requests }))
    }

    /// Waits until everything queued is done and the database is closed; blocks.
    ///
    /// # Errors
    /// [`StoreClosed`] when the thread had panicked.
    pub fn close(self) -> Result<(), StoreClosed> {
        // A thread that is gone already says so when it is joined.
        let _ = self.requests.blocking_send(Request::Close);
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
        let work: Work = Box::new(move |store| drop(answer.send(work(store))));
        self.requests.send(Request::Work(work)).await.map_err(|_| StoreClosed)?;
        result.await.map_err(|_| StoreClosed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_folder::StateFolder;
    use crate::store::DATABASE_FILE;

    #[tokio::test]
    async fn a_close_does_what_was_queued_and_leaves_a_closed_database_whoever_holds_a_handle() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("state")).unwrap();
        let (thread, handle) = StoreThread::start(Store::open(&folder).unwrap(), "store").unwrap();
        let log = folder.file(&format!("{DATABASE_FILE}-wal"));
        let (queued, closed) = tokio::join!(
            handle.with(|store| store.add_silence(10, 0, |_| "{}".into()).unwrap()),
            tokio::task::spawn_blocking(move || thread.close()),
        );
        assert_eq!(queued.unwrap(), 1);
        closed.unwrap().unwrap();
        assert!(!log.exists(), "SQLite takes its log away when it closes");
        assert!(handle.with(|store| store.outbox_rows()).await.is_err());
    }
}
