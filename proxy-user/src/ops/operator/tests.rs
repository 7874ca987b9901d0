use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::flow::Path as FlowPath;
use crate::ops::flags::{EngineChoice, LanesMode};
use crate::ops::metrics::ServerMetrics;

fn desk() -> (Desk, Live, FlowTable) {
    let flows = FlowTable::new();
    let metrics = ServerMetrics::new(&flows).unwrap();
    let live = Live::new(EngineChoice::Auto, LanesMode::Auto, metrics.konduit.clone());
    let doctor = Box::new(|| "all is well\n".to_owned());
    (Desk { flows: flows.clone(), live: live.clone(), doctor }, live, flows)
}

/// What a client prints to, as `ask` sees it, without its printing.
async fn get(socket: &Path, path: &'static str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn flows_doctor_and_set_answer_over_a_socket_of_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/operator.sock");
    let (desk, live, flows) = desk();
    let socket = OperatorSocket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let serving = tokio::spawn(socket.serve(desk, 16, |_| {}));

    let _open = flows.open("kubelet:10250", "agent-7", FlowPath::Mux);
    let (status, table) = get(&path, "/flows").await;
    assert!(status == 200 && table.contains("kubelet:10250") && table.contains("mux"), "{table}");
    assert_eq!(get(&path, "/doctor").await, (200, "all is well\n".to_owned()));

    let (status, words) = get(&path, "/set?engine=copy").await;
    assert_eq!((status, words.as_str()), (200, "In force: engine=copy (operator), lanes=auto (flag)\n"));
    assert_eq!(live.now().engine, EngineChoice::Copy);
    let (status, words) = get(&path, "/set?engine=warp").await;
    assert!(status == 400 && words.contains("warp"), "{words}");
    assert_eq!(get(&path, "/metrics").await.0, 404);

    serving.abort();
    assert!(serving.await.is_err());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone_and_a_dead_one_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    let first = OperatorSocket::bind(&path).unwrap();
    assert!(matches!(OperatorSocket::bind(&path), Err(OperatorError::InUse(_))));
    drop(first);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(OperatorSocket::bind(&path).is_ok());
}
