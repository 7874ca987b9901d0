//! Agents that show a service account token, and an API server that is well, slow, failing or absent.

use std::fs;
use std::time::{Duration, Instant};

use proxy_tests::apiserver::{Caller, Mood};
use proxy_tests::field::{ACCOUNT, AUDIENCE, Field, SOON, says};
use proxy_tests::{ports, scrape};

#[test]
fn an_agent_of_the_service_account_is_served() -> anyhow::Result<()> {
    for caller in [Caller::Token, Caller::TokenFile, Caller::Certificate] {
        let field = Field::new()?;
        field.api.knows("good", ACCOUNT, AUDIENCE);
        let _server = field.with_tokens(caller)?;
        let _agent = field.agent_with("good\n")?;
        ports::wait(SOON, &format!("an agent, by {caller:?}"), || field.ready())?;
        assert_eq!(field.api.asked("POST /apis/authentication.k8s.io/v1/tokenreviews"), 1);
    }
    Ok(())
}

#[test]
fn whoever_else_is_refused_with_the_reason_at_both_ends() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("other", "system:serviceaccount:default:konnectivity-agent", AUDIENCE);
    field.api.knows("elsewhere", ACCOUNT, "https://kubernetes.default.svc");
    let server = field.with_tokens(Caller::Token)?;
    for (token, reason) in [
        ("", "Authentication context was not found in metadata"),
        ("other", "incoming request from \"default\" namespace. Expected \"kube-system\""),
        ("elsewhere", "token audiences are invalid for the target audiences"),
        ("forged", "lookup failed: invalid bearer token"),
    ] {
        let (agent, _) = match token {
            "" => field.agent("agent", &[])?,
            token => field.agent_with(token)?,
        };
        for child in [&agent, &server] {
            // A quote within a quoted text has backslashes, twice where the status is quoted by itself.
            let told =
                || fs::read_to_string(&child.log).is_ok_and(|log| log.replace('\\', "").contains(reason));
            ports::wait(SOON, &format!("{reason:?} in {}", child.log.display()), told)?;
        }
    }
    assert!(!field.ready());
    Ok(())
}

#[test]
fn a_token_is_read_anew_at_each_connect() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("new", ACCOUNT, AUDIENCE);
    let _server = field.with_tokens(Caller::Token)?;
    let (agent, _) = field.agent_with("old")?;
    says(&agent, "invalid bearer token")?;
    fs::write(field.file("token"), "new")?;
    ports::wait(SOON, "the agent with its new token", || field.ready())?;
    Ok(())
}

#[test]
fn an_api_server_that_fails_costs_a_refusal_and_nothing_else() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    let server = field.with_tokens(Caller::Token)?;
    for (mood, words) in [
        (Mood::Refuses(500), "refused with 500"),
        (Mood::Refuses(403), "refused with 403"),
        (Mood::Absent, "the Kubernetes API server cannot be reached"),
    ] {
        field.api.is(mood);
        let (agent, pages) = field.agent_with("good")?;
        says(&server, words)?;
        says(&agent, words)?;
        assert_eq!(scrape::http_get(field.server_pages, "/healthz")?, "ok");
        assert_eq!(scrape::http_get(pages, "/healthz")?, "ok");
        assert!(!field.ready());
        field.api.is(Mood::Well);
        ports::wait(SOON, "the agent once the API server is well", || field.ready())?;
        drop(agent);
        ports::wait(SOON, "the agent to be gone", || !field.ready())?;
    }
    Ok(())
}

#[test]
fn a_slow_api_server_holds_up_nobody_else() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    let mut server = field.with_tokens(Caller::Token)?;
    let (_first, _) = field.agent_with("good")?;
    ports::wait(SOON, "the first agent", || field.ready())?;
    field.api.is(Mood::Hangs);
    let second = format!("--service-account-token-path={}", field.file("token").display());
    let (_second, pages) = field.agent("second", &[&second])?;
    ports::wait(SOON, "the second to be asked about", || field.api.asked("tokenreviews") == 2)?;
    let began = Instant::now();
    assert_eq!(scrape::http_get(field.server_pages, "/healthz")?, "ok");
    assert_eq!(scrape::http_get(pages, "/healthz")?, "ok");
    assert!(field.ready());
    server.signal(rustix::process::Signal::TERM)?;
    assert_eq!(server.wait(SOON)?.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn new_credentials_are_used_when_the_old_ones_are_refused() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    let server = field.with_tokens(Caller::Token)?;
    field.api.expect_credential("second")?;
    let _agent = field.agent_with("good")?;
    says(&server, "refused with 401")?;
    field.api.kubeconfig(Caller::Token)?;
    ports::wait(SOON, "the agent after the kubeconfig changed", || field.ready())?;
    Ok(())
}

#[test]
fn a_kubeconfig_that_cannot_be_used_ends_the_start_with_a_sentence() -> anyhow::Result<()> {
    let field = Field::new()?;
    let broken = field.file("broken.kubeconfig");
    fs::write(&broken, "clusters: 5")?;
    let error = field.server(
        &broken,
        &["--agent-namespace=a", "--agent-service-account=b", "--authentication-audience=c"],
    );
    let error = error.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("broken.kubeconfig cannot be used: "), "{error}");
    Ok(())
}
