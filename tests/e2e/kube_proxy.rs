//! A proxy on the way to the API server, named where client-go looks for one.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proxy_tests::apiserver::Caller;
use proxy_tests::field::{ACCOUNT, AUDIENCE, Field, SOON, TOKENS, says};
use proxy_tests::ports;
use serde_json::{Value, json};

/// No name that anybody resolves but the proxy.
const API: &str = "api.example:6443";

/// Takes CONNECTs for [`API`] to where the stand-in is; counts them.
struct Proxy {
    url: String,
    count: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(api: SocketAddr) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (url, count) = (format!("http://{}", listener.local_addr()?), Arc::new(AtomicUsize::new(0)));
        let counted = count.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counted = counted.clone();
                std::thread::spawn(move || carry(client, api, &counted));
            }
        });
        Ok(Proxy { url, count })
    }
}

fn carry(mut client: TcpStream, api: SocketAddr, count: &AtomicUsize) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(format!("CONNECT {API} ").as_bytes()) {
        return Ok(());
    }
    count.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(api)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    std::io::copy(&mut server, &mut client)?;
    Ok(())
}

/// Where a proxy is named: in the cluster's entry, in the environment, in NO_PROXY; and whether it is asked.
struct Case {
    proxy_url: bool,
    https_proxy: bool,
    no_proxy: &'static str,
    asked: bool,
}

const CASES: [Case; 8] = [
    Case { proxy_url: false, https_proxy: false, no_proxy: "", asked: false },
    Case { proxy_url: true, https_proxy: false, no_proxy: "*", asked: true },
    Case { proxy_url: false, https_proxy: true, no_proxy: "", asked: true },
    // The proxy's own name says nothing of the server's.
    Case { proxy_url: false, https_proxy: true, no_proxy: "127.0.0.1", asked: true },
    Case { proxy_url: false, https_proxy: true, no_proxy: ".example", asked: false },
    // What is empty, and what nobody understands, exempts nobody.
    Case { proxy_url: false, https_proxy: true, no_proxy: "a,,b,", asked: true },
    Case { proxy_url: false, https_proxy: true, no_proxy: ",a b,.example,", asked: false },
    Case { proxy_url: true, https_proxy: true, no_proxy: ",", asked: true },
];

fn reaches(case: &Case) -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.knows("good", ACCOUNT, AUDIENCE);
    let proxy = Proxy::start(field.api.address)?;
    let path = field.api.kubeconfig(Caller::Token)?;
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let cluster = &mut config["clusters"][0]["cluster"];
    cluster["server"] = json!(format!("https://{API}"));
    // As the stand-in's certificate has it.
    cluster["tls-server-name"] = json!("127.0.0.1");
    if case.proxy_url {
        cluster["proxy-url"] = json!(proxy.url);
    }
    fs::write(&path, config.to_string())?;
    let named = if case.https_proxy { &proxy.url } else { "" };
    // Whatever this machine's own environment says.
    let variables =
        [("HTTPS_PROXY", named), ("https_proxy", ""), ("NO_PROXY", case.no_proxy), ("no_proxy", "")];
    let server = field.server_in(&variables, &path, &TOKENS)?;
    let _agent = field.agent_with("good")?;
    if case.asked {
        ports::wait(SOON, "the agent", || field.ready())?;
    } else {
        says(&server, "the Kubernetes API server cannot be reached")?;
    }
    anyhow::ensure!((proxy.count.load(Ordering::Relaxed) > 0) == case.asked, "asked when it should not be");
    Ok(())
}

#[test]
fn a_proxy_is_asked_where_client_go_would_ask_it() {
    for (number, case) in CASES.iter().enumerate() {
        reaches(case).map_err(|error| error.context(format!("case {number}"))).unwrap();
    }
}
