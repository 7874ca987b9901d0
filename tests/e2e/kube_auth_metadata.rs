//! Metadata is checked before tokens are: nobody is asked about the token of an agent without a name.

use std::time::Duration;

use proxy_tests::apiserver::Caller;
use proxy_tests::calls::Client;
use proxy_tests::field::{ACCOUNT, AUDIENCE, Field};
use proxy_tests::runner::SOON;
use proxy_tests::scrape;
use proxy_user::net::tls::{ALPN_H2, ClientTls};
use tokio::net::TcpStream;

/// Connects without a certificate, and is refused.
async fn refusal(field: &Field, metadata: &[(&str, &str)]) -> anyhow::Result<(String, String)> {
    let tls = ClientTls { ca: field.file("ca.crt"), identity: None, alpn: vec![ALPN_H2.to_vec()] }.watch()?;
    let socket = TcpStream::connect(("127.0.0.1", field.agent_port)).await?;
    let client = Client::new(tls.connect("127.0.0.1", socket, SOON).await?).await;
    let mut call = client.call("/AgentService/Connect", metadata).await;
    Ok(tokio::time::timeout(2 * SOON, call.status()).await?)
}

#[test]
fn bad_metadata_is_refused_whatever_the_token() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    let _server = field.with_tokens(Caller::Token)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = |metadata: &[(&str, &str)]| runtime.block_on(refusal(&field, metadata));
    let nobody = ("2".to_owned(), "expected%20one%20agentID%20in%20the%20metadata,%20got%200".to_owned());
    let identifiers = ("agentidentifiers", "");
    for token in [None, Some(("authorization", "Bearer good")), Some(("authorization", "Bearer forged"))] {
        let metadata: Vec<_> = [identifiers].into_iter().chain(token).collect();
        assert_eq!(refused(&metadata)?, nobody, "{token:?}");
    }
    assert_eq!(field.api.asked("tokenreviews"), 0);
    let by = |reason| {
        let page = scrape::Page::get(field.server_pages)?;
        anyhow::Ok(page.sum("konduit_refused_connections_total", &[("port", "agents"), ("reason", reason)]))
    };
    assert_eq!((by("metadata")?, by("token")?), (3.0, 0.0));
    let (_, text) = refused(&[("agentid", "agent"), identifiers])?;
    assert!(text.starts_with("Authentication%20context%20was%20not%20found%20in%20metadata"), "{text}");
    assert_eq!((by("metadata")?, by("token")?), (3.0, 1.0));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}
