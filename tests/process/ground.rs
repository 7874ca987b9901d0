//! Both programs with flags of a test's choice, and flows through them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proxy_tests::child::Child;
use proxy_tests::konduit::binaries;
use proxy_tests::ports;
use proxy_tests::runner::Ground;
use proxy_tests::scrape::{Page, http_get};

/// Wide, for machines that are busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Ports and files for one server and one agent.
pub(crate) struct Place {
    pub ground: Ground,
    pub agent_port: u16,
    pub server_health: u16,
    pub agent_health: u16,
}

impl Place {
    pub(crate) fn new() -> anyhow::Result<Place> {
        let [agent_port, server_health, agent_health] = ports::free()?;
        Ok(Place { ground: Ground::new()?, agent_port, server_health, agent_health })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.ground.path("frontend.sock")
    }

    pub(crate) fn server(&self, flags: &[&str]) -> anyhow::Result<Command> {
        let [admin] = ports::free()?;
        let path = |name| self.ground.path(name).display().to_string();
        let mut command = Command::new(binaries()?.join("proxy-server"));
        command.args([
            "--mode=http-connect".to_owned(),
            format!("--uds-name={}", self.socket().display()),
            "--delete-existing-uds-file".to_owned(),
            "--server-port=0".to_owned(),
            format!("--agent-port={}", self.agent_port),
            format!("--cluster-cert={}", path("server.crt")),
            format!("--cluster-key={}", path("server.key")),
            format!("--cluster-ca-cert={}", path("ca.crt")),
            format!("--health-port={}", self.server_health),
            format!("--admin-port={admin}"),
            "--operator-socket=".to_owned(),
            "--lanes=always".to_owned(),
            "--lane-security=raw".to_owned(),
            "--lane-wait=30s".to_owned(),
        ]);
        command.args(flags);
        Ok(command)
    }

    pub(crate) fn start_server(&self, name: &str, flags: &[&str]) -> anyhow::Result<Child> {
        let mut child = Child::start(name, &self.ground.path(""), &mut self.server(flags)?)?;
        let answers = || http_get(self.pages(), "/healthz").is_ok();
        if ports::wait(SOON, "the server", answers).is_err() {
            child.check()?;
            anyhow::bail!("no health page:\n{}", child.last_words());
        }
        Ok(child)
    }

    pub(crate) fn start_agent(&self) -> anyhow::Result<Child> {
        self.start_agent_with(&[])
    }

    pub(crate) fn start_agent_with(&self, flags: &[&str]) -> anyhow::Result<Child> {
        let child = self.spawn_agent(flags)?;
        let ready = || http_get(self.pages(), "/readyz").is_ok();
        ports::wait(SOON, "an agent at the server", ready)?;
        Ok(child)
    }

    /// An agent that may never get to its server.
    pub(crate) fn spawn_agent(&self, flags: &[&str]) -> anyhow::Result<Child> {
        Child::start("agent", &self.ground.path(""), &mut self.agent(flags)?)
    }

    pub(crate) fn agent(&self, flags: &[&str]) -> anyhow::Result<Command> {
        let [admin] = ports::free()?;
        let path = |name| self.ground.path(name).display().to_string();
        let mut command = Command::new(binaries()?.join("proxy-agent"));
        command.args([
            "--proxy-server-host=127.0.0.1".to_owned(),
            format!("--proxy-server-port={}", self.agent_port),
            format!("--ca-cert={}", path("ca.crt")),
            format!("--agent-cert={}", path("client.crt")),
            format!("--agent-key={}", path("client.key")),
            format!("--health-server-port={}", self.agent_health),
            format!("--admin-server-port={admin}"),
            "--operator-socket=".to_owned(),
            "--lane-security=raw".to_owned(),
            "--lane-wait=30s".to_owned(),
        ]);
        command.args(flags);
        Ok(command)
    }

    pub(crate) fn pages(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([127, 0, 0, 1], self.server_health))
    }

    pub(crate) fn page(&self) -> anyhow::Result<Page> {
        Page::get(self.pages())
    }
}

/// A flow to an echo, proven by a few bytes.
pub(crate) fn open(socket: &Path, target: &str) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut head = [0; 39];
    stream.read_exact(&mut head)?;
    let head = String::from_utf8_lossy(&head);
    anyhow::ensure!(head == "HTTP/1.1 200 Connection Established\r\n\r\n", "{head}");
    ping(&mut stream)?;
    Ok(stream)
}

pub(crate) fn ping(stream: &mut UnixStream) -> anyhow::Result<()> {
    stream.write_all(b"there and back")?;
    let mut answer = [0; 14];
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(&answer == b"there and back");
    Ok(())
}

/// So many bytes to an echo and back.
pub(crate) fn there_and_back(flow: &UnixStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
    let mut reader = flow.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut back = vec![0; bytes];
        reader.read_exact(&mut back).map(|()| back)
    });
    let mut writer = flow;
    writer.write_all(&sent).unwrap();
    assert!(reading.join().unwrap().unwrap() == sent, "the echo is not what was sent");
}

/// A target that gives every connection's bytes back.
pub(crate) fn echo() -> anyhow::Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                let mut writer = stream;
                std::io::copy(&mut reader, &mut writer)
            });
        }
    });
    Ok(address)
}
