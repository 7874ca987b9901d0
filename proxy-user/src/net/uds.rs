//! A listening Unix socket that appears and disappears whole.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use super::listener::{Accepted, BACKLOG, ListenError, Local, Remote, wait_out};

/// `sun_path` without its closing zero.
const PATH_LIMIT: usize = 107;
/// What upstream's umask of 0007 leaves: owner and group may connect.
const MODE: u32 = 0o770;

/// A bound Unix listener. Dropping it removes the file, unless another process put its own there meanwhile.
#[derive(Debug)]
pub struct UdsListener {
    inner: tokio::net::UnixListener,
    claim: Claim,
}

/// What a listener's path must lead to. Outlives it.
#[derive(Debug, Clone)]
pub struct Claim {
    path: Arc<Path>,
    identity: (u64, u64),
}

/// Where a listener's path leads. Its socket keeps its inode, so no other file has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    ToIt,
    Nowhere,
    Elsewhere,
}

impl Claim {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that cannot be looked at is taken to be as it was.
    pub fn leads(&self) -> Leads {
        match identity(&self.path) {
            Ok(there) if there == self.identity => Leads::ToIt,
            Ok(_) => Leads::Elsewhere,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Leads::Nowhere
            }
            Err(_) => Leads::ToIt,
        }
    }
}

impl UdsListener {
    /// Binds under a temporary name beside `path`, listens, then renames into place: whoever finds the socket
    /// can connect to it. With `delete_existing` a socket that is there already is replaced, otherwise it is an
    /// error. Must be called inside a tokio runtime.
    pub fn bind(path: &Path, delete_existing: bool) -> Result<UdsListener, ListenError> {
        UdsListener::bind_with_mode(path, delete_existing, MODE)
    }

    /// As [`UdsListener::bind`], with a file mode of the caller's choice.
    pub fn bind_with_mode(path: &Path, delete_existing: bool, mode: u32) -> Result<UdsListener, ListenError> {
        let refuse = |source| ListenError::Unix { path: path.into(), source };
        let temporary = temporary_name(path).map_err(|error| refuse(error.into()))?;
        let longest = path.as_os_str().len().max(temporary.as_os_str().len());
        if longest > PATH_LIMIT {
            return Err(ListenError::TooLong { path: path.into(), limit: PATH_LIMIT });
        }
        match fs::symlink_metadata(path) {
            Ok(_) if !delete_existing => return Err(ListenError::Exists { path: path.into() }),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(ListenError::NotASocket { path: path.into() });
            }
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(refuse)?;
        socket.bind(&SockAddr::unix(&temporary).map_err(refuse)?).map_err(refuse)?;
        let guard = Unlink(&temporary);
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(refuse)?;
        socket.listen(BACKLOG).map_err(refuse)?;
        let inner = tokio::net::UnixListener::from_std(socket.into()).map_err(refuse)?;
        let identity = identity(&temporary).map_err(refuse)?;
        let held = is_held(path);
        put_in_place(&temporary, path, delete_existing).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ListenError::Exists { path: path.into() },
            _ => refuse(source),
        })?;
        std::mem::forget(guard);
        if held {
            tracing::warn!(
                "Took {path:?} over from a process that still listens there and gets no new connections now: if that \
                 is not about to end, give each of the two its own path"
            );
        }
        Ok(UdsListener { inner, claim: Claim { path: path.into(), identity } })
    }

    pub fn path(&self) -> &Path {
        self.claim.path()
    }

    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// The next connection. Waits out whatever makes accepting fail.
    pub async fn accept(&self) -> Accepted<UnixStream> {
        loop {
            match self.inner.accept().await {
                Ok((stream, _)) => {
                    let peer = stream.peer_cred().ok();
                    let remote = Remote::Unix {
                        pid: peer.as_ref().and_then(|peer| peer.pid()),
                        uid: peer.as_ref().map(|peer| peer.uid()),
                    };
                    return Accepted {
                        stream,
                        local: Local::Unix(self.claim.path.clone()),
                        remote,
                        tls: None,
                    };
                }
                Err(error) => wait_out(&self.path().display(), &error).await,
            }
        }
    }
}

impl Drop for UdsListener {
    fn drop(&mut self) {
        if identity(self.path()).is_ok_and(|there| there == self.claim.identity) {
            let _ = fs::remove_file(self.path());
        }
    }
}

/// Removes the temporary file when binding fails half way.
struct Unlink<'a>(&'a Path);

impl Drop for Unlink<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

fn put_in_place(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without NOREPLACE; nothing was there a moment ago.
        Err(rustix::io::Errno::INVAL) => fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Whether a process has the socket there open still. It does not notice: a socket of another type than its own cannot
/// connect, and is told so only if there is one (`unix_find_bsd`).
fn is_held(path: &Path) -> bool {
    let probed = Socket::new(Domain::UNIX, Type::DGRAM, None)
        .and_then(|probe| probe.connect(&SockAddr::unix(path)?))
        .map_err(|error| error.raw_os_error());
    matches!(probed, Ok(()) | Err(Some(libc::EPROTOTYPE)))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// In the same directory, short, unlike any other's: in containers all processes have the same number, and one that was
/// killed left its file.
fn temporary_name(path: &Path) -> Result<PathBuf, getrandom::Error> {
    let name = format!(".{:x}", getrandom::u32()?);
    let parent = path.parent().filter(|parent| !parent.as_os_str().as_bytes().is_empty());
    Ok(parent.unwrap_or(Path::new(".")).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_replaced_whole_and_only_its_owner_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = UdsListener::bind(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        let _client = UnixStream::connect(&path).await.unwrap();
        let accepted = first.accept().await;
        assert_eq!(accepted.local, Local::Unix(path.as_path().into()));
        assert_eq!(
            accepted.remote,
            Remote::Unix {
                pid: Some(std::process::id() as i32),
                uid: Some(rustix::process::getuid().as_raw())
            }
        );

        assert!(matches!(UdsListener::bind(&path, false), Err(ListenError::Exists { .. })));
        let second = UdsListener::bind(&path, true).unwrap();
        drop(first);
        let _client = UnixStream::connect(&path).await.unwrap();
        second.accept().await;
        drop(second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(UdsListener::bind(&path, false).unwrap());
    }

    #[tokio::test]
    async fn a_socket_is_held_while_a_process_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        assert!(!is_held(&path));
        let first = UdsListener::bind(&path, true).unwrap();
        assert!(is_held(&path));
        let nobody = tokio::time::timeout(std::time::Duration::from_millis(20), first.accept()).await;
        assert!(nobody.is_err(), "its owner noticed");
        let forgotten = dir.path().join("forgotten.sock");
        drop(std::os::unix::net::UnixListener::bind(&forgotten).unwrap());
        assert!(forgotten.exists() && !is_held(&forgotten));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(UdsListener::bind(&path, true), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(UdsListener::bind(&long, true), Err(ListenError::TooLong { .. })));
    }
}
