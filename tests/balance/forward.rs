//! A forward proxy between the agent and its server: everything goes through it, lanes too.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proxy_tests::child::Child;
use proxy_tests::konduit::binaries;
use proxy_tests::netns::{self, Netns, ip};
use proxy_tests::ports;
use proxy_tests::runner::{Ground, RunningServer};
use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::fleet::{dial, ended};

/// No address of loopback's: those are never proxied.
const SERVER: &str = "10.77.0.1";

/// Serves CONNECT; counts.
async fn proxy(listener: TcpListener, count: Arc<AtomicU64>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let count = count.clone();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match client.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let Some(to) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
                return;
            };
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            if client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
                // Ends when either side does.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

async fn through_a_proxy() -> anyhow::Result<()> {
    ip(&["addr", "add", &format!("{SERVER}/32"), "dev", "lo"])?;
    let ground = Ground::new()?;
    ground.certs.server("server", &[SERVER])?;
    let mut options = ground.server_options("server");
    options.agent_bind_address = SERVER.to_owned();
    (options.lanes.mode, options.lanes.security) = (LanesMode::Always, LaneSecurity::Raw);
    let server = RunningServer::start(options)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    let count = Arc::new(AtomicU64::new(0));
    tokio::spawn(proxy(listener, count.clone()));
    let [health, admin] = ports::free()?;
    let path = |name| ground.path(name).display().to_string();
    let mut command = Command::new(binaries()?.join("proxy-agent"));
    command.env("HTTPS_PROXY", format!("http://{address}")).env_remove("NO_PROXY").env_remove("no_proxy");
    command.args([
        format!("--proxy-server-host={SERVER}"),
        format!("--proxy-server-port={}", server.agent_port()),
        format!("--ca-cert={}", path("ca.crt")),
        format!("--agent-cert={}", path("client.crt")),
        format!("--agent-key={}", path("client.key")),
        format!("--health-server-port={health}"),
        format!("--admin-server-port={admin}"),
        "--operator-socket=".to_owned(),
        "--lanes=always".to_owned(),
        "--lane-security=raw".to_owned(),
        "--lane-wait=10s".to_owned(),
    ]);
    let _agent = Child::start("agent", &ground.path(""), &mut command)?;
    server.has_agents(1).await?;
    let target = Target::echo().await?;
    for _ in 0..10 {
        dial(server.socket(), &target).await?;
    }
    proxy_tests::runner::until("the flows to end", || server.flows().is_empty()).await?;
    assert_eq!((ended(&server, Path::LaneRaw), ended(&server, Path::Mux)), (10, 0));
    // Every lane, and the control stream.
    let lanes = server.lanes.as_ref().map_or(0, |lanes| lanes.stats().kept);
    let connects = count.load(Ordering::Relaxed);
    assert!(lanes > 0 && connects > lanes && connects < 60, "{connects} through the proxy, {lanes} lanes");
    Ok(())
}

#[test]
fn lanes_go_through_a_forward_proxy() {
    if netns::are_denied() {
        return;
    }
    let world = Netns::new().unwrap();
    let ran = world.run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(through_a_proxy())
    });
    ran.unwrap();
}
