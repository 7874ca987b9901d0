//! Leases: a server publishes its own and collects those of the dead, an agent counts them; and an API server that is
//! well, slow, failing or absent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_tests::apiserver::{Caller, Mood};
use proxy_tests::child::Child;
use proxy_tests::field::{Field, SOON, says};
use proxy_tests::{ports, scrape};
use rustix::process::Signal;
use serde_json::{Value, json};

pub(crate) const OURS: &str = "konnectivity-proxy-server-this";

pub(crate) fn labels() -> Value {
    json!({ "k8s-app": "konnectivity-server" })
}

pub(crate) fn publisher(field: &Field, flags: &[&str]) -> anyhow::Result<Child> {
    field.server(&field.api.kubeconfig(Caller::Token)?, &[&["--enable-lease-controller"], flags].concat())
}

pub(crate) fn lease(field: &Field, name: &str) -> Option<Value> {
    field.api.leases().into_iter().find(|lease| lease["metadata"]["name"] == json!(name))
}

pub(crate) fn counter(field: &Field, flags: &[&str]) -> anyhow::Result<(Child, SocketAddr)> {
    let kubeconfig = format!("--kubeconfig={}", field.api.kubeconfig(Caller::Token)?.display());
    field.agent("agent", &[&["--count-server-leases", &kubeconfig], flags].concat())
}

fn known(pages: SocketAddr) -> f64 {
    scrape::Page::get(pages).map_or(f64::NAN, |page| page.sum("agent_known_server_count", &[]))
}

pub(crate) fn counts(pages: SocketAddr, servers: f64) -> anyhow::Result<()> {
    Ok(ports::wait(SOON, &format!("{servers} servers to be known"), || known(pages) == servers)?)
}

#[test]
fn a_server_publishes_its_lease_collects_the_expired_and_takes_its_own_away() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease("dead", &labels(), Duration::from_secs(600));
    field.api.lease("alive", &labels(), Duration::ZERO);
    field.api.lease("elsewhere", &json!({ "k8s-app": "other" }), Duration::from_secs(600));
    let mut server = publisher(&field, &[])?;
    ports::wait(SOON, "the lease", || lease(&field, OURS).is_some())?;
    let ours = lease(&field, OURS).unwrap_or_default();
    assert_eq!(ours["metadata"]["labels"], labels());
    assert_eq!(ours["metadata"]["namespace"], json!("kube-system"));
    assert_eq!(ours["spec"]["holderIdentity"], json!("this"));
    assert_eq!(ours["spec"]["leaseDurationSeconds"], json!(30));
    assert!(ours["spec"]["acquireTime"].is_null());
    // Microseconds, as the API server insists.
    let renewed = ours["spec"]["renewTime"].as_str().unwrap_or_default();
    assert_eq!((renewed.len(), &renewed[19..20], &renewed[26..]), (27, ".", "Z"), "{renewed}");
    ports::wait(SOON, "the expired lease to go", || lease(&field, "dead").is_none())?;
    assert!(lease(&field, "alive").is_some() && lease(&field, "elsewhere").is_some());
    ports::wait(SOON, "the count", || field.metric("culled_leases_count") == 1.0)?;
    assert!(field.metric("lease_list_total") >= 1.0);
    server.signal(Signal::TERM)?;
    assert_eq!(server.wait(SOON)?.code(), Some(0));
    // A busy API server may get to it after the one who asked has left.
    ports::wait(SOON, "its own lease to go", || lease(&field, OURS).is_none())?;
    Ok(())
}

/// Every 15 s, as upstream; it lasts 30.
#[test]
fn a_lease_is_renewed_before_it_expires() -> anyhow::Result<()> {
    let field = Field::new()?;
    let _server = publisher(&field, &[])?;
    let renewed = || Some(lease(&field, OURS)?["spec"]["renewTime"].as_str()?.to_owned());
    ports::wait(SOON, "the lease", || renewed().is_some())?;
    let (began, first) = (Instant::now(), renewed());
    // One format and one zone: text sorts as time does.
    ports::wait(SOON, "its renewal", || renewed() > first)?;
    assert!(began.elapsed() >= Duration::from_secs(10), "after {:?} already", began.elapsed());
    assert!(field.api.asked("PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/") >= 1);
    Ok(())
}

#[test]
fn a_lease_is_taken_over_renewed_against_conflicts_and_made_again() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease(OURS, &json!({ "old": "label" }), Duration::from_secs(600));
    field.api.conflicts(3);
    let _server = publisher(&field, &["--lease-label=a=b, c=d"])?;
    let put = "PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/";
    ports::wait(SOON, "three conflicts and a success", || field.api.asked(put) >= 4)?;
    let fresh =
        || lease(&field, OURS).is_some_and(|l| l["metadata"]["labels"] == json!({"a": "b", "c": "d"}));
    ports::wait(SOON, "the lease with its labels", fresh)?;
    field.api.drop_lease(OURS);
    ports::wait(SOON, "the lease to be made again", fresh)?;
    Ok(())
}

#[test]
fn a_server_whose_api_server_fails_serves_and_ends_in_time() -> anyhow::Result<()> {
    for (mood, words) in [
        (Mood::Refuses(403), "refused with 403"),
        (Mood::Refuses(500), "refused with 500"),
        (Mood::Absent, "cannot be reached"),
        (Mood::Hangs, ""),
    ] {
        let field = Field::new()?;
        field.api.is(mood);
        let mut server = publisher(&field, &["--graceful-shutdown-timeout=20s"])?;
        let (_agent, pages) = field.agent("agent", &[])?;
        ports::wait(SOON, "the agent", || field.ready())?;
        says(&server, words)?;
        ports::wait(SOON, "its server", || {
            scrape::http_get(pages, "/readyz").is_ok_and(|body| body == "ok")
        })?;
        let began = Instant::now();
        server.signal(Signal::TERM)?;
        assert_eq!(server.wait(SOON)?.code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(10), "{mood:?}: {:?}", began.elapsed());
    }
    Ok(())
}

#[test]
fn an_agent_counts_the_valid_leases_that_its_selector_selects() -> anyhow::Result<()> {
    let field = Field::new()?;
    let app = |name: &str| json!({ "k8s-app": name });
    field.api.lease("one", &app("konnectivity-server"), Duration::ZERO);
    field.api.lease("two", &app("other"), Duration::ZERO);
    field.api.lease("three", &app("third"), Duration::ZERO);
    field.api.lease("dead", &app("other"), Duration::from_secs(600));
    let _server = field.server(&field.kubeconfig_of_nobody()?, &["--server-count=5"])?;
    let (_agent, pages) =
        counter(&field, &["--lease-label-selector=k8s-app in (konnectivity-server, other)"])?;
    counts(pages, 2.0)?;
    field.api.lease("four", &app("other"), Duration::ZERO);
    counts(pages, 3.0)?;
    field.api.drop_lease("one");
    field.api.drop_lease("two");
    counts(pages, 1.0)?;
    field.api.drop_lease("four");
    // Nobody counts less than one; what servers say does not count.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(known(pages), 1.0);
    assert_eq!(field.api.asked("watch=true"), 1);
    let page = scrape::Page::get(pages)?;
    assert_eq!(page.sum("agent_lease_lists_total", &[("http_response_code", "200")]), 1.0);
    Ok(())
}

/// As upstream: no namespace is all of them.
#[test]
fn an_agent_without_a_namespace_counts_the_leases_of_all() -> anyhow::Result<()> {
    let field = Field::new()?;
    for namespace in ["kube-system", "tenant-a", "tenant-b"] {
        field.api.lease_in(namespace, "same-name", &labels(), Duration::ZERO);
    }
    let _server = field.server(&field.kubeconfig_of_nobody()?, &[])?;
    let (_agent, pages) = counter(&field, &["--lease-namespace="])?;
    counts(pages, 3.0)?;
    field.api.lease_in("tenant-c", "another", &labels(), Duration::ZERO);
    counts(pages, 4.0)?;
    field.api.drop_lease("same-name");
    counts(pages, 3.0)
}

#[test]
fn the_larger_count_wins_where_that_is_asked_for() -> anyhow::Result<()> {
    let field = Field::new()?;
    for name in ["a", "b"] {
        field.api.lease(name, &labels(), Duration::ZERO);
    }
    let _server = field.server(&field.kubeconfig_of_nobody()?, &["--server-count=5"])?;
    let (_agent, pages) = counter(&field, &["--server-count-source=max"])?;
    counts(pages, 5.0)?;
    Ok(())
}

#[test]
fn without_an_api_server_an_agent_connects_is_healthy_and_keeps_its_count() -> anyhow::Result<()> {
    for mood in [Mood::Absent, Mood::Hangs, Mood::Refuses(403)] {
        let field = Field::new()?;
        field.api.is(mood);
        let _server = field.server(&field.kubeconfig_of_nobody()?, &[])?;
        let (_agent, pages) = counter(&field, &[])?;
        ports::wait(SOON, &format!("the agent with {mood:?}"), || field.ready())?;
        ports::wait(SOON, "its readiness", || scrape::http_get(pages, "/readyz").is_ok())?;
        counts(pages, 1.0)?;
    }
    let field = Field::new()?;
    for name in ["a", "b", "c"] {
        field.api.lease(name, &labels(), Duration::ZERO);
    }
    let _server = field.server(&field.kubeconfig_of_nobody()?, &[])?;
    let (agent, pages) = counter(&field, &[])?;
    counts(pages, 3.0)?;
    field.api.is(Mood::Refuses(500));
    says(&agent, "Cannot count servers by their leases; the count stays")?;
    assert_eq!(known(pages), 3.0);
    field.api.drop_lease("a");
    field.api.is(Mood::Well);
    counts(pages, 2.0)
}

#[test]
fn a_server_that_starts_is_counted_and_one_that_stops_is_not() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease("another", &labels(), Duration::ZERO);
    let mut server = publisher(&field, &[])?;
    let (_agent, pages) = counter(&field, &[])?;
    counts(pages, 2.0)?;
    server.signal(Signal::TERM)?;
    server.wait(SOON)?;
    Ok(ports::wait(2 * SOON, "one server to be known", || known(pages) == 1.0)?)
}
