//! The start-up self-test proves every engine on a machine that can load the programs.

use proxy_user::splice::proof::prove;

use crate::rig::sockmap;

#[test]
fn the_ladder_proves_this_machine() {
    if sockmap().is_none() {
        return;
    }
    let abilities = prove();
    for (name, proof) in abilities.each() {
        assert_eq!(proof.why_not(), None, "{name}");
    }
    eprintln!("{abilities} ({:?})", abilities.took);
}
