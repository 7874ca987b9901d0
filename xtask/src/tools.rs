//! Programs that the tests and the bench run beside ours, and what each distribution calls their packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

struct Tool {
    program: &'static str,
    /// By [`Family::ALL`].
    packages: [&'static str; 4],
}

const TOOLS: [Tool; 7] = [
    Tool { program: "haproxy", packages: ["haproxy", "haproxy", "haproxy", "haproxy"] },
    Tool { program: "ip", packages: ["iproute2", "iproute", "iproute2", "iproute2"] },
    Tool { program: "nft", packages: ["nftables", "nftables", "nftables", "nftables"] },
    Tool { program: "ssh", packages: ["openssh-client", "openssh-clients", "openssh", "openssh-client"] },
    Tool { program: "sshd", packages: ["openssh-server", "openssh-server", "openssh", "openssh-server"] },
    Tool { program: "setpriv", packages: ["util-linux", "util-linux", "util-linux", "setpriv"] },
    Tool { program: "tar", packages: ["tar", "tar", "tar", "tar"] },
];

/// Distributions that share their packages' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Debian,
    Fedora,
    Arch,
    Alpine,
}

impl Family {
    /// The name in os-release, and how to install.
    const ALL: [(Family, &'static str, &'static str); 4] = [
        (Family::Debian, "debian", "apt-get install --no-install-recommends"),
        (Family::Fedora, "fedora", "dnf install"),
        (Family::Arch, "arch", "pacman -S"),
        (Family::Alpine, "alpine", "apk add"),
    ];

    /// This machine's, if we know it.
    pub(crate) fn here() -> Option<Family> {
        Family::of(&fs::read_to_string("/etc/os-release").ok()?)
    }

    /// By os-release(5): ID, then ID_LIKE from the closest relative on.
    fn of(os_release: &str) -> Option<Family> {
        let field = |name: &str| {
            let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches('"')
        };
        let names = std::iter::once(field("ID")).chain(field("ID_LIKE").split(' '));
        let mut known = names.filter_map(|name| Family::ALL.iter().find(|(_, id, _)| *id == name));
        known.next().map(|(family, ..)| *family)
    }
}

/// The packages of `family` that are missing here, each once.
pub(crate) fn missing(family: Family) -> Vec<&'static str> {
    packages(family, |tool| !is_here(tool.program))
}

fn packages(family: Family, wanted: impl Fn(&Tool) -> bool) -> Vec<&'static str> {
    let at = Family::ALL.iter().position(|(other, ..)| *other == family).unwrap_or_default();
    let mut packages: Vec<_> =
        TOOLS.iter().filter(|tool| wanted(tool)).map(|tool| tool.packages[at]).collect();
    packages.dedup();
    packages
}

/// Where we install nothing ourselves: fails with what to install.
pub(crate) fn check(family: Option<Family>) -> Result<()> {
    let programs: Vec<_> =
        TOOLS.iter().map(|tool| tool.program).filter(|program| !is_here(program)).collect();
    if programs.is_empty() {
        return Ok(());
    }
    let known = Family::ALL.iter().find(|(other, ..)| Some(*other) == family);
    let how = match known {
        Some((family, _, install)) => format!("{install} {}", missing(*family).join(" ")),
        None => "install them by this distribution's means".to_owned(),
    };
    bail!("the tests run programs that are missing here ({}); as root:\n  {how}", programs.join(", "))
}

/// Daemons lie where only root's PATH leads.
fn is_here(program: &str) -> bool {
    sh::find(program).is_some()
        || ["/usr/sbin", "/sbin"].iter().any(|folder| Path::new(folder).join(program).is_file())
}

/// Makes sure that Go is here and new enough for the Kubernetes path; we never install it.
pub(crate) fn go() -> Result<()> {
    let module = sh::root().join("tests/kubernetes");
    let text = fs::read_to_string(module.join("go.mod")).context("could not read tests/kubernetes/go.mod")?;
    let wanted = text.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or_default();
    // In the module: a Go that can fetch the version asked for answers as that.
    let found = sh::ask(Command::new("go").current_dir(&module).args(["env", "GOVERSION"]));
    let why = match &found {
        Some(found) if version(found) >= version(wanted) => return Ok(()),
        Some(found) => format!("this is {found}"),
        None => "there is none on PATH that can be it".to_owned(),
    };
    bail!("the Kubernetes path's tests need Go {wanted} or newer, {why}: install it from https://go.dev/dl/")
}

/// `go1.26.8` and `1.26.0` alike, up to what is no number.
fn version(text: &str) -> Vec<u32> {
    text.trim_start_matches("go").split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_known_by_its_name_or_its_nearest_relative() {
        for (os_release, family) in [
            ("ID=debian\n", Some(Family::Debian)),
            ("NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Some(Family::Debian)),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some(Family::Fedora)),
            ("VERSION_ID=3\nID=alpine\n", Some(Family::Alpine)),
            ("ID=nixos\n", None),
            ("", None),
        ] {
            assert_eq!(Family::of(os_release), family, "{os_release}");
        }
    }

    #[test]
    fn packages_are_named_as_the_distribution_does_and_once() {
        let all = |family| packages(family, |_| true);
        assert_eq!(all(Family::Arch), ["haproxy", "iproute2", "nftables", "openssh", "util-linux", "tar"]);
        assert_eq!(all(Family::Fedora)[1], "iproute");
        assert_eq!(packages(Family::Debian, |tool| tool.program == "sshd"), ["openssh-server"]);
    }

    #[test]
    fn versions_of_go_are_compared_by_number() {
        assert!(version("go1.26.8") >= version("1.26.0"));
        assert!(version("go1.100") > version("1.26.0"));
        assert!(version("go1.19.8") < version("1.26.0"));
        assert!(version("go1.26rc1") < version("1.26.0"));
    }
}
