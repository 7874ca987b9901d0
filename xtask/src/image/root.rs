//! The files of an image: the program, what it needs to start, and what any program expects to find.

use std::collections::BTreeSet;

use pem::{EncodeConfig, LineEnding, Pem};
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

use super::layer::Tree;
use super::libraries::Needs;

/// Upstream's images run as this user and group, unless the pod says otherwise.
pub(super) const NONROOT: u32 = 65532;

const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\n\
    nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\nnobody:x:65534:\n";
/// Servers' names go through the C library: /etc/hosts first, as in Go's resolver.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// The whole root directory of the image of `program`, which lies in it as `bytes`.
pub(super) fn tree(program: &str, bytes: Vec<u8>, needs: &Needs) -> Tree {
    let mut tree = Tree::default();
    tree.file(program, 0o755, bytes);
    for (path, bytes) in &needs.files {
        tree.file(path, 0o755, bytes.as_slice());
    }
    tree.file("etc/passwd", 0o644, PASSWD);
    tree.file("etc/group", 0o644, GROUP);
    tree.file("etc/nsswitch.conf", 0o644, NSSWITCH);
    // For a kubeconfig that names no authority.
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, authorities());
    // Upstream's manifests have Unix sockets in /tmp; /run/konduit is the default for operator sockets, for any user.
    tree.directory("tmp", 0o1777);
    tree.directory("run/konduit", 0o1777);
    tree
}

/// Of all that lies in the image: ours, the eBPF object's, the authorities', the libraries'. An SPDX expression.
pub(super) fn licences(needs: &Needs) -> String {
    let ours = ["Apache-2.0", "(GPL-2.0-only OR BSD-2-Clause)", "CDLA-Permissive-2.0"];
    let all: BTreeSet<&str> = ours.into_iter().chain(needs.licences.iter().copied()).collect();
    all.into_iter().collect::<Vec<_>>().join(" AND ")
}

/// Mozilla's, not those of this machine, which may have some of its own.
fn authorities() -> String {
    let pems: Vec<Pem> =
        TLS_SERVER_ROOT_CERTS.iter().map(|der| Pem::new("CERTIFICATE", der.as_ref())).collect();
    pem::encode_many_config(&pems, EncodeConfig::new().set_line_ending(LineEnding::LF))
}
