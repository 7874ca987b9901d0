//! An API server that is slow, or that not even a SYN reaches: what is asked of it takes its time, and nothing else
//! does. Least of all the health endpoints.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proxy_tests::apiserver::{Caller, Mood};
use proxy_tests::dark::Dark;
use proxy_tests::field::{ACCOUNT, AUDIENCE, Field, SOON, TOKENS};
use proxy_tests::{ports, scrape};
use rustix::process::Signal;
use serde_json::json;

/// Longer than programs take to start on a busy machine, shorter than any request may take.
const SLOW: Duration = Duration::from_secs(6);

#[test]
fn a_slow_review_of_a_token_is_waited_for() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    field.api.is(Mood::Slow(SLOW));
    let _server = field.with_tokens(Caller::Token)?;
    let (_agent, pages) = field.agent_with("good")?;
    ports::wait(SOON, "the review", || field.api.asked("tokenreviews") == 1)?;
    assert_eq!(scrape::http_get(field.server_pages, "/healthz")?, "ok");
    assert_eq!(scrape::http_get(pages, "/healthz")?, "ok");
    assert!(!field.ready(), "an agent is served before anybody knows whose token it has");
    ports::wait(SOON, "the agent", || field.ready())?;
    assert_eq!(field.api.asked("tokenreviews"), 1, "nobody gave up and asked again");
    Ok(())
}

#[test]
fn slow_leases_are_published_and_counted_later_and_hold_up_nobody() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease("another", &json!({ "k8s-app": "konnectivity-server" }), Duration::ZERO);
    field.api.is(Mood::Slow(SLOW));
    let kubeconfig = field.api.kubeconfig(Caller::Token)?;
    let mut server = field.server(&kubeconfig, &["--enable-lease-controller"])?;
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    let (_agent, pages) = field.agent("agent", &["--count-server-leases", &flag])?;
    ports::wait(SOON, "the agent's health", || scrape::http_get(pages, "/healthz").is_ok())?;
    ports::wait(SOON, "the agent", || field.ready() && scrape::http_get(pages, "/readyz").is_ok())?;
    assert_eq!(field.api.leases().len(), 1, "nothing was held up: the lease is not there yet");
    let known = || scrape::Page::get(pages).map_or(0.0, |page| page.sum("agent_known_server_count", &[]));
    assert_eq!(known(), 1.0);
    ports::wait(2 * SOON, "both leases to be counted", || known() == 2.0)?;
    let began = Instant::now();
    server.signal(Signal::TERM)?;
    assert_eq!(server.wait(SOON)?.code(), Some(0));
    assert!(began.elapsed() < SLOW, "a server that ends waits no longer than it must: {:?}", began.elapsed());
    Ok(())
}

/// A kubeconfig whose server answers no SYN.
fn kubeconfig_of(field: &Field, dark: &Dark) -> anyhow::Result<PathBuf> {
    let real = fs::read_to_string(field.api.kubeconfig(Caller::Token)?)?;
    let path = field.file("dark.kubeconfig");
    fs::write(&path, real.replace(&field.api.address.to_string(), &dark.address.to_string()))?;
    Ok(path)
}

#[test]
fn an_api_server_that_answers_no_syn_keeps_no_health_endpoint_down() -> anyhow::Result<()> {
    let (field, dark) = (Field::new()?, Dark::new()?);
    let kubeconfig = kubeconfig_of(&field, &dark)?;
    let began = Instant::now();
    let _server = field.server(&kubeconfig, &[&["--enable-lease-controller"], &TOKENS[..]].concat())?;
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    let (_agent, pages) = field.agent("agent", &["--count-server-leases", &flag])?;
    ports::wait(SOON, "the agent's health", || scrape::http_get(pages, "/healthz").is_ok())?;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}
