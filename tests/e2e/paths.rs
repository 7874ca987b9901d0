//! The same test on every path that can carry a flow.

use proxy_tests::runner::Cell;
use proxy_user::flow::Path;
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::server::options::Options;

/// A cell whose flows all take this path.
pub(crate) async fn cell(path: Path) -> anyhow::Result<Cell> {
    cell_with(path, |_| {}).await
}

/// The same; `change` has a last look at the server's options.
pub(crate) async fn cell_with(path: Path, change: impl FnOnce(&mut Options)) -> anyhow::Result<Cell> {
    let (mode, security) = match path {
        Path::Mux => (LanesMode::Off, LaneSecurity::Encrypt),
        Path::LaneEncrypt => (LanesMode::Always, LaneSecurity::Encrypt),
        Path::LaneRaw => (LanesMode::Always, LaneSecurity::Raw),
    };
    Cell::start(|server, agent| {
        for lanes in [&mut server.lanes, &mut agent.lanes] {
            (lanes.mode, lanes.security) = (mode, security);
            // A machine that is busy must not push a flow to the mux.
            lanes.wait = std::time::Duration::from_secs(10);
        }
        change(server);
    })
    .await
}

/// Every flow so far was carried as it should be, and is over.
pub(crate) fn all_took(cell: &Cell, path: Path) -> bool {
    let totals = cell.server.flows().totals();
    Path::ALL.into_iter().all(|other| {
        let ended: u64 = proxy_user::flow::Outcome::ALL.into_iter().map(|how| totals.ended(other, how)).sum();
        (ended > 0) == (other == path)
    })
}

/// Makes one test of each path.
macro_rules! on_every_path {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            use proxy_user::flow::Path;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_the_mux() {
                super::$test(Path::Mux).await.unwrap();
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_encrypted_lanes() {
                super::$test(Path::LaneEncrypt).await.unwrap();
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_raw_lanes() {
                super::$test(Path::LaneRaw).await.unwrap();
            }
        })+
    };
}
pub(crate) use on_every_path;
