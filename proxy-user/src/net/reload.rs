//! Something made from files, made anew when they change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::task::AbortHandle;

/// How often files are looked at. A mounted Secret is swapped about once a minute at most.
pub const POLL: Duration = Duration::from_secs(5);

/// The newest good value made from some files.
///
/// The files are polled by identity (device, inode, size, times), through symbolic links, so that the swap of
/// a mounted Secret's directory link is seen. A load that fails keeps the old value and is tried again at every
/// poll, since certificate and key do not change at one instant.
pub struct Reloading<T> {
    current: Arc<RwLock<Arc<T>>>,
    watcher: AbortHandle,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Loads once, then watches `files` until dropped. `what` names the value in log lines; `look` is called at every
    /// poll, for what changes with the time alone, with the complaint about files that changed and do not load. Must be
    /// called inside a tokio runtime.
    pub fn start<E: std::error::Error + Send + 'static>(
        what: &'static str,
        files: Vec<PathBuf>,
        poll: Duration,
        load: impl Fn() -> Result<T, E> + Send + 'static,
        look: impl Fn(Option<&str>) + Send + 'static,
    ) -> Result<Reloading<T>, E> {
        let seen = fingerprint(&files);
        let current = Arc::new(RwLock::new(Arc::new(load()?)));
        let slot = current.clone();
        let reload = move || {
            let value = Arc::new(load()?);
            *slot.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = value;
            Ok::<(), E>(())
        };
        let watcher = tokio::spawn(watch(what, files, poll, seen, reload, look));
        Ok(Reloading { current, watcher: watcher.abort_handle() })
    }

    pub fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl<T> Drop for Reloading<T> {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

async fn watch<E: std::error::Error>(
    what: &'static str,
    files: Vec<PathBuf>,
    poll: Duration,
    mut seen: Vec<Option<Fingerprint>>,
    reload: impl Fn() -> Result<(), E>,
    look: impl Fn(Option<&str>),
) {
    let mut tick = tokio::time::interval(poll);
    let mut complaint: Option<String> = None;
    // Since the last time that they loaded.
    let mut changed = vec![false; files.len()];
    loop {
        tick.tick().await;
        let now = fingerprint(&files);
        for (changed, (now, before)) in changed.iter_mut().zip(now.iter().zip(&seen)) {
            *changed |= now != before;
        }
        seen = now;
        if changed.contains(&true) {
            let named = files.iter().zip(&changed).filter(|(_, changed)| **changed);
            let named: Vec<_> = named.map(|(file, _)| file).collect();
            match reload() {
                Ok(()) => {
                    tracing::info!(what, files = ?named, "files changed, reloaded");
                    changed.fill(false);
                    complaint = None;
                }
                Err(error) => {
                    let news = error.to_string();
                    if complaint.as_ref() != Some(&news) {
                        tracing::warn!(
                            what, files = ?named, %error,
                            "files changed but do not load; the old ones stay in force"
                        );
                        complaint = Some(news);
                    }
                }
            }
        }
        look(complaint.as_deref());
    }
}

type Fingerprint = (u64, u64, u64, (i64, i64), (i64, i64));

/// Read before the files themselves: a change in between is then seen at the next poll.
fn fingerprint(files: &[PathBuf]) -> Vec<Option<Fingerprint>> {
    let identity = |meta: Metadata| {
        (
            meta.dev(),
            meta.ino(),
            meta.size(),
            (meta.mtime(), meta.mtime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        )
    };
    files.iter().map(|file| std::fs::metadata(file).ok().map(identity)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use super::*;

    async fn until(value: &Reloading<String>, wanted: &str) {
        let found = tokio::time::timeout(Duration::from_secs(5), async {
            while *value.current() != wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("{wanted:?} never appeared"));
    }

    #[tokio::test]
    async fn a_swapped_link_is_seen_and_a_bad_file_keeps_the_old_value() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("crt"), text).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("data")).unwrap();
        let file = at("data").join("crt");
        let load = {
            let file = file.clone();
            move || match fs::read_to_string(&file) {
                Ok(text) if text == "bad" => Err(io::Error::other("bad")),
                other => other,
            }
        };
        let value =
            Reloading::start("test", vec![file.clone()], Duration::from_millis(5), load, |_| ()).unwrap();
        assert_eq!(*value.current(), "one");

        std::os::unix::fs::symlink("v2", at("next")).unwrap();
        fs::rename(at("next"), at("data")).unwrap();
        until(&value, "two").await;

        fs::write(&file, "bad").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(*value.current(), "two");
        fs::write(&file, "three").unwrap();
        until(&value, "three").await;
    }
}
