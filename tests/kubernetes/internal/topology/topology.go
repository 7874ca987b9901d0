// Package topology lays out two networks that cannot reach each other: a
// control plane and a node network behind a provider's NAT.
//
//	control plane                   router                     node network
//	public .10 ── wan ── .1  (masquerade, node → cp only)  .1 ── lan ── .2 node, .7 pod
//	.2 and .7 of the node
//	network's own range,
//	on an inner link
//
// The control plane owns the very addresses that the node and the pod have:
// a dial that does not take the tunnel ends at a decoy, not at the target.
package topology

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// Net is one laid-out pair of networks.
type Net struct {
	Family               string // "ipv4" or "ipv6"
	ControlPlane, Router string // names of network namespaces
	Node                 string
	Public               netip.Addr // the control plane, as the node network sees it
	NodeIP, PodIP        netip.Addr // in the node network, and again in the control plane
	OnlyNode             netip.Addr // in the node network only
	Dark                 netip.Addr // nobody's, in the node network
	Loopback             netip.Addr
}

type plan struct {
	public, wanGW, lanGW, node, pod, only, dark, loop string
	bits                                              int
	flag, any                                         string
}

var plans = map[string]plan{
	"ipv4": {"203.0.113.10", "203.0.113.1", "10.0.0.1", "10.0.0.2", "10.0.0.7", "10.0.0.9", "10.0.0.99", "127.0.0.1", 24, "-4", "0.0.0.0/0"},
	"ipv6": {"2001:db8:1::10", "2001:db8:1::1", "fd00:10::1", "fd00:10::2", "fd00:10::7", "fd00:10::9", "fd00:10::99", "::1", 64, "-6", "::/0"},
}

// Families lists the address families that Build knows.
func Families() []string { return []string{"ipv4", "ipv6"} }

// Plan gives the names and addresses of a family without building anything.
func Plan(family string) Net {
	p := plans[family]
	return Net{
		Family: family, ControlPlane: "cp-" + family, Router: "rt-" + family, Node: "nd-" + family,
		Public: netip.MustParseAddr(p.public), NodeIP: netip.MustParseAddr(p.node), PodIP: netip.MustParseAddr(p.pod),
		OnlyNode: netip.MustParseAddr(p.only), Dark: netip.MustParseAddr(p.dark), Loopback: netip.MustParseAddr(p.loop),
	}
}

// Build makes the three namespaces of a family.
func Build(family string) (Net, error) {
	n, p := Plan(family), plans[family]
	steps := script{}
	for _, ns := range []string{n.ControlPlane, n.Router, n.Node} {
		steps.host("netns add %s", ns)
		steps.in(ns, "link set lo up")
		if family == "ipv6" {
			steps.in(ns, "-4 address flush dev lo")
		}
	}
	steps.host("link add wan netns %s type veth peer name wan netns %s", n.ControlPlane, n.Router)
	steps.host("link add lan netns %s type veth peer name lan netns %s", n.Node, n.Router)
	steps.in(n.ControlPlane, "link add inner type veth peer name inner-peer")
	steps.in(n.ControlPlane, "link set inner-peer up")
	steps.addr(n.ControlPlane, "wan", p.public, p.bits)
	steps.addr(n.ControlPlane, "inner", p.node, p.bits)
	steps.addr(n.ControlPlane, "inner", p.pod, p.bits)
	steps.addr(n.Router, "wan", p.wanGW, p.bits)
	steps.addr(n.Router, "lan", p.lanGW, p.bits)
	steps.addr(n.Node, "lan", p.node, p.bits)
	steps.addr(n.Node, "lan", p.pod, p.bits)
	steps.addr(n.Node, "lan", p.only, p.bits)
	steps.in(n.Node, "%s route add default via %s src %s", p.flag, p.lanGW, p.node)
	if err := steps.run(); err != nil {
		return n, err
	}
	return n, n.nat()
}

// nat lets the node network open connections outwards, under the router's
// own address, and drops everything that somebody else begins.
func (n Net) nat() error {
	rules := `table inet provider {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" oifname "wan" accept
  }
  chain source {
    type nat hook postrouting priority 100;
    oifname "wan" masquerade
  }
}
`
	forwarding := "/proc/sys/net/ipv4/ip_forward"
	if n.Family == "ipv6" {
		forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	cmd := exec.Command("ip", "netns", "exec", n.Router, "sh", "-c", "echo 1 > "+forwarding+" && nft -f -")
	cmd.Stdin = strings.NewReader(rules)
	return run(cmd)
}

type script []string

func (s *script) host(format string, a ...any) { *s = append(*s, fmt.Sprintf(format, a...)) }
func (s *script) in(ns, format string, a ...any) {
	s.host("-n "+ns+" "+format, a...)
}
func (s *script) addr(ns, dev, addr string, bits int) {
	nodad := ""
	if strings.Contains(addr, ":") {
		nodad = " nodad"
	}
	s.in(ns, "address add %s/%d dev %s%s", addr, bits, dev, nodad)
	s.in(ns, "link set %s up", dev)
}

func (s script) run() error {
	for _, line := range s {
		if err := run(exec.Command("ip", strings.Fields(line)...)); err != nil {
			return err
		}
	}
	return nil
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// Command prepares a program to run inside one of the namespaces. The process
// that starts is the program itself: its pid is cmd.Process.Pid.
func Command(ns, name string, args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
	cmd.Env = os.Environ()
	return cmd
}
