//! The network that a run measures on: one of its own, in which TCP is as Linux ships it.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};

use anyhow::Context as _;
use proxy_tests::netns::{self, CONGESTION};
use rustix::io::Errno;

/// What Linux has unless who built or runs a kernel chose another.
pub const OF_LINUX: &str = "cubic";
/// Says to measure on the network that is there.
pub const OF_MACHINE: &str = "machine";
/// The machine's alone, and what other namespaces may choose of (tcp_set_default_congestion_control).
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// What figures are measured on, to be held for so long.
pub struct Network {
    pub words: String,
    /// Networks within, as on a link, choose again.
    _permission: Option<Permission>,
}

/// Gives this process a network of its own with that congestion control. To be called while it has one thread: others,
/// and /proc/net, would stay on the machine's network. Who may not have one measures on what is there, and is told.
///
/// # Errors
/// When this kernel has no congestion control of that name, or the network cannot be set up.
pub fn enter(congestion: &str) -> anyhow::Result<Network> {
    if congestion == OF_MACHINE {
        return Ok(Network { words: of_machine(), _permission: None });
    }
    let permission = Permission::give(congestion);
    match netns::enter_new() {
        Err(error) if error.downcast_ref() == Some(&Errno::PERM) => {
            let words = of_machine();
            println!("!!! NOT {congestion}: {error:#}; figures are those of {words}");
            return Ok(Network { words, _permission: None });
        }
        entered => entered?,
    }
    let chosen = netns::choose_congestion(congestion);
    let words = format!("{}, in a network namespace of its own", netns::congestion());
    if let Err(error) = chosen {
        if error.kind() == io::ErrorKind::NotFound {
            let there = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
            let there = there.unwrap_or_default();
            return Err(error).with_context(|| {
                let there = there.trim();
                format!("this kernel's congestion controls are {there}: name one of these, or `{OF_MACHINE}`")
            });
        }
        println!("!!! NOT {congestion}: writing {CONGESTION}: {error}; figures are those of {words}");
    }
    Ok(Network { words, _permission: permission })
}

/// The network that a process has from the start, in words.
pub fn of_machine() -> String {
    format!("{}, on this machine's own network", netns::congestion())
}

/// What a picture says of all its figures.
pub fn note(network: &str, noisy: bool) -> String {
    format!("congestion control {network}{}", if noisy { "; indicative, on a busy machine" } else { "" })
}

/// While it lives, a namespace may choose a congestion control that the machine allows to itself alone.
struct Permission {
    allowed: File,
    before: String,
}

impl Permission {
    /// None where nothing has to be allowed, or may be: choosing tells then.
    fn give(congestion: &str) -> Option<Permission> {
        let mut allowed = File::options().read(true).write(true).open(ALLOWED).ok()?;
        let mut before = String::new();
        allowed.read_to_string(&mut before).ok()?;
        if before.split_whitespace().any(|name| name == congestion) {
            return None;
        }
        let permission = Permission { allowed, before };
        permission.write(&format!("{} {congestion}", permission.before.trim())).ok()?;
        Some(permission)
    }

    fn write(&self, names: &str) -> io::Result<()> {
        let mut file = &self.allowed;
        file.rewind()?;
        file.write_all(names.as_bytes())
    }
}

impl Drop for Permission {
    fn drop(&mut self) {
        if let Err(error) = self.write(self.before.trim()) {
            println!("!!! {ALLOWED} could not be set back to `{}`: {error}", self.before.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn entered(congestion: &'static str) -> anyhow::Result<String> {
        thread::spawn(move || enter(congestion).map(|network| network.words)).join().unwrap()
    }

    fn settings() -> (String, Option<String>) {
        (netns::congestion(), fs::read_to_string(ALLOWED).ok())
    }

    #[test]
    fn a_run_has_its_own_and_the_machine_keeps_what_it_had() {
        let before = settings();
        assert_eq!(entered(OF_MACHINE).unwrap(), of_machine());
        let words = entered(OF_LINUX).unwrap();
        if words == of_machine() {
            println!("!!! SKIPPED in part: this process may not make a network namespace");
        } else {
            assert_eq!(words, format!("{OF_LINUX}, in a network namespace of its own"));
            let error = entered("carrier-pigeon").unwrap_err().to_string();
            assert!(error.contains("reno") && error.contains("name one of these"), "{error}");
        }
        assert_eq!(settings(), before);
    }

    /// As on a link between two hops.
    #[test]
    fn a_network_within_takes_after_the_one_it_was_made_in() {
        let inside = thread::spawn(|| {
            let network = enter("reno").unwrap();
            (network.words != of_machine()).then(|| netns::Netns::new()?.run(|| Ok(netns::congestion())))
        });
        match inside.join().unwrap() {
            Some(congestion) => assert_eq!(congestion.unwrap(), "reno"),
            None => println!("!!! SKIPPED: this process may not make a network namespace"),
        }
    }
}
