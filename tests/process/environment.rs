//! What both programs take from their environment.

use std::fs;

use proxy_tests::child::Child;
use proxy_tests::ports;
use proxy_tests::scrape::http_get;

use crate::ground::{Place, SOON};

#[test]
fn ids_come_from_the_environment_unless_a_flag_says_otherwise() {
    for (flags, server_id, agent_id) in [
        (([].as_slice(), [].as_slice()), "server-of-env", "agent-of-env"),
        ((&["--server-id=server-of-flag"], &["--agent-id=agent-of-flag"]), "server-of-flag", "agent-of-flag"),
    ] {
        let place = Place::new().unwrap();
        let mut command = place.server(flags.0).unwrap();
        command.env("PROXY_SERVER_ID", "server-of-env");
        let server = Child::start("server", &place.ground.path(""), &mut command).unwrap();
        ports::wait(SOON, "the server", || http_get(place.pages(), "/healthz").is_ok()).unwrap();
        let mut command = place.agent(flags.1).unwrap();
        command.env("PROXY_AGENT_ID", "agent-of-env");
        let agent = Child::start("agent", &place.ground.path(""), &mut command).unwrap();
        let line = |child: &Child, words: &str| {
            let log = fs::read_to_string(&child.log).unwrap();
            log.lines().find(|line| line.contains(words)).map(str::to_owned)
        };
        for (child, words, id) in [
            (&server, "Agent connected", format!("agent={agent_id:?}")),
            (&agent, "Connected to a server", format!("server={server_id:?}")),
        ] {
            ports::wait(SOON, words, || line(child, words).is_some()).unwrap();
            let told = line(child, words).unwrap();
            assert!(told.contains(&id) || told.contains(&id.replace('"', "")), "{id} in {told}");
        }
    }
}
