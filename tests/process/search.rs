//! `--sync-forever`: an agent that has all the servers it was told of finds one more.

use proxy_tests::balancer::{Balancer, Manner};
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_beyond_the_count_is_found() {
    let ground = Ground::new().unwrap();
    // Each says that it is alone.
    let first = RunningServer::start(ground.server_options("first")).unwrap();
    let second = RunningServer::start(ground.server_options("second")).unwrap();
    let balancer = Balancer::start(Manner::RoundRobin, &[first.agent_port()]).await.unwrap();
    let content = ground.agent_options("content", balancer.port);
    let mut restless = ground.agent_options("restless", balancer.port);
    restless.sync_forever = true;
    let content = RunningAgent::start(content).unwrap();
    let restless = RunningAgent::start(restless).unwrap();
    let both = || content.servers.connected() == 1 && restless.servers.connected() == 1;
    until("both agents to have a server", both).await.unwrap();
    balancer.add(second.agent_port());
    until("the second server", || restless.servers.connected() == 2).await.unwrap();
    assert_eq!(content.servers.connected(), 1, "an agent looks no further than the count it was told");
    assert_eq!(second.registry().streams().len(), 1);
}
