//! Work on a thread of its own, and the place it takes.
//!
//! Nobody can stop such a thread. Who asked may go away at any time, so the place goes with the work and not with the question: whoever asks and
//! goes, again and again, gets no more of it than the places there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::reply::Reply;

/// One of few places.
#[derive(Debug)]
pub(super) struct Place(OwnedSemaphorePermit);

impl Place {
    /// Waits for one. Who goes away while waiting takes none.
    ///
    /// # Errors
    /// The agent ends.
    pub(super) async fn of(places: &Arc<Semaphore>) -> Result<Self, Reply> {
        let place = Arc::clone(places).acquire_owned().await;
        place.map(Self).map_err(|_| super::silent())
    }

    /// Does the work. The place is free when it ends, whether or not somebody still waits for it.
    ///
    /// # Errors
    /// It gave nothing.
    pub(super) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Reply> {
        let Self(place) = self;
        let done = spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|_| super::silent())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Longer than anything here takes.
    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn who_asked_goes_away_then_the_place_is_taken_until_the_work_ends() {
        let places = Arc::new(Semaphore::new(1));
        let (go, wait) = mpsc::channel::<()>();
        let (begin, mut begun) = tokio::sync::mpsc::channel(1);
        let mine = Arc::clone(&places);
        let question = tokio::spawn(async move {
            let place = Place::of(&mine).await.unwrap();
            let work = place.work(move || {
                begin.blocking_send(()).unwrap();
                let _ = wait.recv();
            });
            work.await.unwrap();
        });
        timeout(SOON, begun.recv()).await.unwrap().unwrap();
        question.abort();
        assert!(question.await.unwrap_err().is_cancelled());
        assert_eq!(places.available_permits(), 0, "the work goes on");
        drop(go);
        timeout(SOON, Place::of(&places)).await.unwrap().unwrap();
    }
}
