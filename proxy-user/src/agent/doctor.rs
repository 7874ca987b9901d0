//! What the doctor says of an agent's place: whether its pod has an address that it says its node's pods have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use crate::ops::doctor::OWN_MIND;
use crate::wire::identifiers::Identifiers;
use crate::wire::range::Range;

/// A section of the report. `own`: this machine's or pod's addresses.
pub fn place(identifiers: &Identifiers, own: &[IpAddr]) -> String {
    let pods: Vec<Range> = identifiers.cidr.iter().filter_map(|text| Range::parse(text)).collect();
    let addresses: Vec<String> = own.iter().map(IpAddr::to_string).collect();
    let addresses = if own.is_empty() { "none has a way out".to_owned() } else { addresses.join(", ") };
    let named = identifiers.raw();
    let mut text = format!("\nOwn address: {addresses}; --agent-identifiers={named:?}\n");
    let of_node = |address: &IpAddr| identifiers.addresses().any(|node| node == *address);
    let inside = |address: &IpAddr| pods.iter().any(|range| range.holds(*address));
    // On the host's network: of the pods' addresses nothing can be told.
    let on_host = own.iter().any(of_node);
    if !own.is_empty() && !pods.is_empty() && !on_host && !own.iter().any(inside) {
        text.push_str(&format!(
            "This pod is outside of the ranges that its agent names for nodeLocal, and so may be all of its node: \
             {OWN_MIND}\n"
        ));
    }
    text
}

/// By what the pod's manifest says (`POD_IP`), else by the way out that the kernel would take; nothing is sent.
pub fn own_addresses(variable: impl Fn(&str) -> Option<String>) -> Vec<IpAddr> {
    if let Some(address) = variable("POD_IP").and_then(|text| text.parse().ok()) {
        return vec![address];
    }
    let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    // Documentation's addresses, of nobody.
    let outside: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let way = |(local, remote): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((local, 0)).ok()?;
        socket.connect((remote, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    everywhere.into_iter().zip(outside).filter_map(way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_outside_of_the_ranges_that_it_names_is_told_so() {
        for (identifiers, own, told) in [
            ("cidr=10.1.2.0/24", "10.9.0.5", true),
            ("cidr=10.1.2.0/24&ipv4=192.0.2.1", "10.9.0.5", true),
            ("cidr=10.1.2.0/24&cidr=10.9.0.0/26", "10.9.0.5", false),
            ("cidr=10.1.2.0/24", "10.1.2.5", false),
            // One of two address families is enough.
            ("cidr=10.1.2.0/24", "10.1.2.5 fd00::5", false),
            // On the host's network.
            ("cidr=10.1.2.0/24&ipv4=192.0.2.1", "192.0.2.1", false),
            ("ipv4=192.0.2.1", "10.9.0.5", false),
            ("", "10.9.0.5", false),
            ("cidr=10.1.2.0/24", "", false),
        ] {
            let own: Vec<IpAddr> = own.split_whitespace().map(|text| text.parse().unwrap()).collect();
            let text = place(&Identifiers::parse(identifiers).unwrap(), &own);
            assert_eq!(text.contains("Calico"), told, "{identifiers} {own:?}: {text}");
            assert!(own.iter().all(|own| text.contains(&own.to_string())), "{text}");
        }
    }

    #[test]
    fn the_manifests_word_on_the_own_address_counts_first() {
        let pod = own_addresses(|name| (name == "POD_IP").then(|| "10.1.2.3".to_owned()));
        assert_eq!(pod, [IpAddr::from([10, 1, 2, 3])]);
    }
}
