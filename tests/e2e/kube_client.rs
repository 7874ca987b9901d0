//! The client of the Kubernetes API: in a pod, and no faster than it may ask.

use std::time::{Duration, Instant};

use proxy_tests::field::{ACCOUNT, AUDIENCE, Field, SOON, TOKENS};
use proxy_tests::{ports, scrape};

#[test]
fn in_a_pod_the_service_account_serves_and_its_token_is_read_anew() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    field.api.node("one", "192.0.2.1", &["10.1.1.0/24"]);
    let strategies = "--proxy-strategies=default,nodeLocal";
    let _server = field.server_in_pod(&[&TOKENS[..], &[strategies]].concat())?;
    let (agent, _) = field.agent_with("good")?;
    ports::wait(SOON, "an agent", || field.ready())?;
    let nodes =
        || scrape::Page::get(field.server_pages).map_or(f64::NAN, |page| page.sum("konduit_nodes", &[]));
    ports::wait(SOON, "the nodes", || nodes() == 1.0)?;
    field.api.expect_credential("second")?;
    drop(agent);
    ports::wait(SOON, "the agent to be gone", || !field.ready())?;
    let _agent = field.agent_with("good")?;
    ports::wait(SOON, "the agent, by the new token", || field.ready())?;
    Ok(())
}

#[test]
fn reviews_of_tokens_are_spread_out_as_the_flags_say() -> anyhow::Result<()> {
    let field = Field::new()?;
    let kubeconfig = field.kubeconfig_of_nobody()?;
    // Nobody's token: each agent comes back again and again, several times a second.
    let _agents = (0..3).map(|_| field.agent_with("forged")).collect::<Result<Vec<_>, _>>()?;
    let paced = ["--kubeconfig-qps=1", "--kubeconfig-burst=2"];
    let _server = field.server(&kubeconfig, &[&TOKENS[..], &paced].concat())?;
    let began = Instant::now();
    let before = field.api.asked("tokenreviews");
    ports::wait(2 * SOON, "eight reviews", || field.api.asked("tokenreviews") >= before + 8)?;
    // Two on their way already, two at once, and the others one a second.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    Ok(())
}
