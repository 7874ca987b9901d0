//! What programs count of leases, what they delete of them, and in which namespace.

use std::fs;
use std::time::Duration;

use proxy_tests::field::{Field, SOON, says};
use proxy_tests::{ports, scrape};
use rustix::process::Signal;
use serde_json::json;

use crate::kube_leases::{OURS, counter, counts, labels, lease, publisher};

const LONG_AGO: Duration = Duration::from_secs(600);

/// Waits until the server has been answered so to a deletion of a lease that is not its own.
fn deletion_answered(field: &Field, status: &str, reason: &str) -> anyhow::Result<()> {
    let total = [("http_status_code", status), ("reason", reason)];
    let taken = [("http_status_code", status)];
    let counted = || {
        scrape::Page::get(field.server_pages).is_ok_and(|page| {
            page.sum("server_lease_delete_total", &total) == 1.0
                && page.sum("server_lease_delete_latency_seconds_count", &taken) == 1.0
        })
    };
    Ok(ports::wait(SOON, &format!("a deletion answered with {status}"), counted)?)
}

#[test]
fn a_server_counts_its_listings_and_deletions() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease("dead", &labels(), LONG_AGO);
    let _server = publisher(&field, &[])?;
    deletion_answered(&field, "200", "")?;
    let page = scrape::Page::get(field.server_pages)?;
    let listed = page.sum("server_lease_list_total", &[("http_status_code", "200"), ("reason", "")]);
    let taken = page.sum("server_lease_list_latency_seconds_count", &[("http_status_code", "200")]);
    assert!(listed >= 1.0 && taken == listed, "{listed} listings, {taken} latencies");
    Ok(())
}

#[test]
fn an_agent_counts_its_listings_and_watches() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease("one", &labels(), Duration::ZERO);
    field.api.refuse_lease_watches(403);
    let _server = field.server(&field.kubeconfig_of_nobody()?, &[])?;
    let (_agent, pages) = counter(&field, &[])?;
    let watches = |status, reason| {
        let labels = [("http_response_code", status), ("reason", reason)];
        scrape::Page::get(pages).map_or(f64::NAN, |page| page.sum("agent_lease_watches_total", &labels))
    };
    ports::wait(SOON, "a watch that is refused", || watches("403", "Unwell") >= 1.0)?;
    assert_eq!(watches("200", ""), 0.0);
    field.api.refuse_lease_watches(0);
    ports::wait(SOON, "a watch", || watches("200", "") == 1.0)?;
    let page = scrape::Page::get(pages)?;
    let listed = page.sum("agent_lease_lists_total", &[("http_response_code", "200"), ("reason", "")]);
    let taken = page.sum("agent_lease_list_latency_seconds_count", &[("http_response_code", "200")]);
    assert!(listed >= 2.0 && taken == listed, "{listed} listings, {taken} latencies");
    Ok(())
}

/// The lease that was listed is deleted, not what became of it.
#[test]
fn a_lease_that_is_renewed_behind_its_listing_is_kept() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease("late", &labels(), LONG_AGO);
    field.api.renew_behind_list("late", labels());
    let server = publisher(&field, &[])?;
    deletion_answered(&field, "409", "Conflict")?;
    says(&server, "Cannot delete an expired lease")?;
    assert!(lease(&field, "late").is_some());
    assert_eq!(field.metric("culled_leases_count"), 0.0);
    Ok(())
}

#[test]
fn a_lease_that_another_deleted_is_no_trouble() -> anyhow::Result<()> {
    let field = Field::new()?;
    for name in ["a-dead", "b-dead"] {
        field.api.lease(name, &labels(), LONG_AGO);
    }
    field.api.drop_lease_behind_list("a-dead");
    let mut server = publisher(&field, &[])?;
    deletion_answered(&field, "404", "NotFound")?;
    deletion_answered(&field, "200", "")?;
    ports::wait(SOON, "the count", || field.metric("culled_leases_count") == 1.0)?;
    // Its own as well.
    ports::wait(SOON, "its own lease", || lease(&field, OURS).is_some())?;
    says(&server, "Publishing this server's lease")?;
    field.api.drop_lease(OURS);
    server.signal(Signal::TERM)?;
    assert_eq!(server.wait(SOON)?.code(), Some(0));
    let log = fs::read_to_string(&server.log)?;
    assert!(!log.contains("Cannot delete") && !log.contains("stays until it expires"), "{log}");
    Ok(())
}

#[test]
fn both_programs_keep_to_the_namespace_that_they_are_told() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.lease_in("elsewhere", "dead", &labels(), LONG_AGO);
    field.api.lease_in("elsewhere", "another", &labels(), Duration::ZERO);
    field.api.lease("dead-here", &labels(), LONG_AGO);
    field.api.lease("first-here", &labels(), Duration::ZERO);
    field.api.lease("second-here", &labels(), Duration::ZERO);
    let _server = publisher(&field, &["--lease-namespace=elsewhere"])?;
    ports::wait(SOON, "the lease", || lease(&field, OURS).is_some())?;
    assert_eq!(lease(&field, OURS).unwrap_or_default()["metadata"]["namespace"], json!("elsewhere"));
    ports::wait(SOON, "the expired lease to go", || lease(&field, "dead").is_none())?;
    assert!(lease(&field, "dead-here").is_some());
    let (_agent, pages) = counter(&field, &["--lease-namespace=elsewhere"])?;
    counts(pages, 2.0)
}
