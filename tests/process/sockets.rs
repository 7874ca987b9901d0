//! A frontend's Unix socket whose file somebody takes away under a running server.

use std::fs;
use std::os::unix::net::UnixListener;

use proxy_tests::child::Child;
use proxy_tests::ports::wait;
use proxy_tests::scrape::http_get;
use rustix::process::Signal;

use crate::ground::{Place, SOON};

fn told(server: &Child) -> Vec<String> {
    let log = fs::read_to_string(&server.log).unwrap();
    let of_it = |line: &&str| line.starts_with('E') && line.contains("no API server finds this server");
    log.lines().filter(of_it).map(str::to_owned).collect()
}

#[test]
fn a_socket_that_is_removed_or_taken_over_is_told_once() {
    let places = [(); 2].map(|()| Place::new().unwrap());
    let mut servers = places.each_ref().map(|place| place.start_server("server", &[]).unwrap());
    let in_place =
        |place: &Place| place.page().map_or(-1.0, |page| page.sum("konduit_frontend_socket_in_place", &[]));
    for place in &places {
        wait(SOON, "the first look", || in_place(place) == 1.0).unwrap();
        fs::remove_file(place.socket()).unwrap();
    }
    let _other = UnixListener::bind(places[1].socket()).unwrap();
    for ((place, server), words) in places.iter().zip(&servers).zip(["was removed", "Another process"]) {
        wait(SOON, "a word of the lost socket", || in_place(place) == 0.0).unwrap();
        wait(SOON, "a line of the lost socket", || !told(server).is_empty()).unwrap();
        assert!(
            told(server)[0].contains(words) && told(server)[0].contains(" restart "),
            "{:?}",
            told(server)
        );
        // As upstream, whose pages tell of agents alone.
        assert_eq!(http_get(place.pages(), "/healthz").unwrap(), "ok");
    }
    for server in &mut servers {
        server.signal(Signal::TERM).unwrap();
        assert_eq!(server.wait(SOON).unwrap().code(), Some(0));
        assert_eq!(told(server).len(), 1, "{}", server.last_words());
    }
    assert!(places[1].socket().exists(), "it removed another's file");
}
