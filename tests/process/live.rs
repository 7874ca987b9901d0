//! Settings that are lowered by a mounted ConfigMap.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::ground::{Place, SOON, echo, open, ping};

/// As the kubelet does: a new directory, then one rename of the link that everything goes through.
pub(crate) fn swap(volume: &Path, version: &str, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let directory = volume.join(version);
    fs::create_dir_all(&directory)?;
    for (name, content) in files {
        fs::write(directory.join(name), content)?;
    }
    let fresh = volume.join("..data_tmp");
    symlink(version, &fresh)?;
    fs::rename(&fresh, volume.join("..data"))?;
    for (name, _) in files {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    Ok(())
}

#[test]
fn a_swapped_config_map_is_obeyed_by_new_flows() {
    let place = Place::new().unwrap();
    let volume = place.ground.path("config");
    swap(&volume, "..1", &[("settings", b"# nothing yet\n")]).unwrap();
    let file = format!("--live-settings={}", volume.join("settings").display());
    let _server = place.start_server("server", &[&file]).unwrap();
    let _agent = place.start_agent().unwrap();
    let target = echo().unwrap();
    let flows = |path| place.page().unwrap().sum("konduit_flows", &[("path", path)]);
    let mut on_lane = open(&place.socket(), &target).unwrap();
    assert_eq!((flows("lane-raw"), flows("mux")), (1.0, 0.0));
    swap(&volume, "..2", &[("settings", b"lanes=off\nengine=copy\n")]).unwrap();
    let labels = [("setting", "lanes"), ("value", "off"), ("by", "file")];
    let obeyed = || place.page().is_ok_and(|page| page.sum("konduit_in_force", &labels) == 1.0);
    ports::wait(SOON, "the file to be obeyed", obeyed).unwrap();
    let _packets = open(&place.socket(), &target).unwrap();
    assert_eq!((flows("lane-raw"), flows("mux")), (1.0, 1.0));
    ping(&mut on_lane).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_told_once_and_obeyed_once_it_can() {
    let place = Place::new().unwrap();
    let settings = place.ground.path("settings");
    fs::write(&settings, b"lanes=off\n\xff").unwrap();
    let server = place.start_server("server", &[&format!("--live-settings={}", settings.display())]).unwrap();
    let told = || fs::read_to_string(&server.log).unwrap().matches("live settings cannot be read").count();
    ports::wait(SOON, "a word of the file", || told() > 0).unwrap();
    fs::write(&settings, b"lanes=off\n").unwrap();
    let labels = [("setting", "lanes"), ("value", "off"), ("by", "file")];
    let obeyed = || place.page().is_ok_and(|page| page.sum("konduit_in_force", &labels) == 1.0);
    ports::wait(SOON, "the file to be obeyed", obeyed).unwrap();
    assert_eq!(told(), 1);
}

/// An agent lowers what its own flows travel on, whatever its server would like, and gives it back.
#[test]
fn an_agent_obeys_its_own_file() {
    let place = Place::new().unwrap();
    let settings = place.ground.path("settings");
    fs::write(&settings, b"lanes=off\n\xff").unwrap();
    let _server = place.start_server("server", &[]).unwrap();
    let agent = place.start_agent_with(&[&format!("--live-settings={}", settings.display())]).unwrap();
    let told = || fs::read_to_string(&agent.log).unwrap().matches("live settings cannot be read").count();
    ports::wait(SOON, "a word of the file", || told() > 0).unwrap();
    let target = echo().unwrap();
    let pages = SocketAddr::from(([127, 0, 0, 1], place.agent_health));
    let obeyed = |setting, value, by| {
        let labels = [("setting", setting), ("value", value), ("by", by)];
        let says = || Page::get(pages).is_ok_and(|page| page.sum("konduit_in_force", &labels) == 1.0);
        ports::wait(SOON, &format!("{setting}={value} by {by}"), says).unwrap();
    };
    let flows = |path| Page::get(pages).unwrap().sum("konduit_flows", &[("path", path)]);
    let mut opened = vec![open(&place.socket(), &target).unwrap()];
    assert_eq!((flows("lane-raw"), flows("mux")), (1.0, 0.0));

    fs::write(&settings, b"lanes=off\nengine=copy\n").unwrap();
    obeyed("lanes", "off", "file");
    obeyed("engine", "copy", "file");
    // What tells the page is a moment ahead of who obeys.
    let mut leads_to = |path| {
        let before = flows(path);
        let one_more = || {
            opened.push(open(&place.socket(), &target).unwrap());
            flows(path) > before
        };
        ports::wait(SOON, path, one_more).unwrap();
        opened.iter_mut().for_each(|flow| ping(flow).unwrap());
    };
    leads_to("mux");
    let packets =
        |reason| Page::get(pages).unwrap().sum("konduit_mux_fallbacks_total", &[("reason", reason)]);
    assert!(packets("lanes_off") > 0.0, "the agent says why");
    assert_eq!(packets("lanes_failing"), 0.0, "nothing fails");
    fs::write(&settings, b"# as the flags say\n").unwrap();
    obeyed("lanes", "auto", "flag");
    obeyed("engine", "auto", "flag");
    leads_to("lane-raw");
    assert_eq!(told(), 1);
}
