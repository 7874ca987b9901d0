//! The limit of descriptors that a container or a shell sets is no word of how many flows somebody wants.

use std::process::Command;

use proxy_tests::child::Child;
use proxy_tests::ports;
use proxy_tests::scrape::Page;
use rustix::process::{Resource, getrlimit};

use crate::ground::{Place, SOON};

const SOFT: u64 = 160;

/// The same program under a low soft limit.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -Sn {SOFT} && exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
fn both_raise_the_soft_limit_of_descriptors_to_the_hard_one() {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap();
    assert!(hard > SOFT, "a hard limit of {hard} shows nothing");
    let place = Place::new().unwrap();
    let logs = place.ground.path("");
    let _server = Child::start("server", &logs, &mut limited(&place.server(&[]).unwrap())).unwrap();
    let _agent = Child::start("agent", &logs, &mut limited(&place.agent(&[]).unwrap())).unwrap();
    for (program, port) in [("server", place.server_health), ("agent", place.agent_health)] {
        let most = || Page::get(([127, 0, 0, 1], port).into()).map(|page| page.sum("process_max_fds", &[]));
        ports::wait(SOON, program, || most().is_ok()).unwrap();
        assert_eq!(most().unwrap(), hard as f64, "{program}");
    }
}
