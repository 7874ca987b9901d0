//! Whether anybody uses this agent: dials and flows hold a guard each.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Counts dials and flows. Cheap to clone.
#[derive(Clone)]
pub struct Activity(Arc<watch::Sender<usize>>);

impl Default for Activity {
    fn default() -> Activity {
        Activity(Arc::new(watch::Sender::new(0)))
    }
}

/// A dial or flow, while it lives.
pub struct Work(Arc<watch::Sender<usize>>);

impl Activity {
    pub fn begin(&self) -> Work {
        self.0.send_modify(|count| *count += 1);
        Work(self.0.clone())
    }

    /// Returns when there was neither dial nor flow for `long`.
    pub async fn quiet(&self, long: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = count.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(long, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_anew_with_every_dial() {
        let activity = Activity::default();
        let work = activity.begin();
        let began = Instant::now();
        let other = activity.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(work);
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(other.begin());
        });
        activity.quiet(Duration::from_secs(10)).await;
        assert_eq!(began.elapsed().as_secs(), 18);
    }
}
