package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"konduit/tests/kubernetes/internal/apiserver"
	"konduit/tests/kubernetes/internal/certs"
	"konduit/tests/kubernetes/internal/kubelet"
	"konduit/tests/kubernetes/internal/proc"
	"konduit/tests/kubernetes/internal/topology"
)

// Generous: a machine under load must not fail a test by being slow to start.
const startLimit = 60 * time.Second

// Roles that a re-run of this program can play.
const (
	RoleKubelet   = "kubelet"
	RoleAPIServer = "apiserver"
	RoleKubectl   = "kubectl"
)

// Site is everything of one address family.
type Site struct {
	Net       topology.Net
	Cells     []*Cell
	dir, self string
	certs     siteCerts
	kubelet   *proc.Process
	apiserver *proc.Process
}

type siteCerts struct {
	api, kubectl                   certs.Pair
	kubelet, kubeletClient         certs.Pair
	frontendServer, frontendClient certs.Pair
	tunnelServer, tunnelAgent      certs.Pair
}

// NewSite lays out the networks of a family and starts kubelet and API server
// for the cells that are planned there. Cells start when they are asked for.
func NewSite(dir, family string, plans []Plan) (*Site, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &Site{dir: filepath.Join(dir, family), self: self}
	if s.Net, err = topology.Build(family); err != nil {
		return nil, fmt.Errorf("building the %s networks: %w", family, err)
	}
	if s.certs, err = issue(filepath.Join(s.dir, "pki"), s.Net); err != nil {
		return nil, err
	}
	for _, plan := range plans {
		cell := &Cell{Plan: plan, site: s, ports: portsOf(len(s.Cells)), dir: filepath.Join(s.dir, strconv.Itoa(len(s.Cells)))}
		if err := cell.writeFiles(); err != nil {
			return nil, err
		}
		s.Cells = append(s.Cells, cell)
	}
	return s, s.start()
}

func issue(dir string, n topology.Net) (siteCerts, error) {
	var s siteCerts
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, err
	}
	// One authority per trust boundary, as in a cluster.
	for _, boundary := range []struct {
		authority      string
		server, client *certs.Pair
		names          [2]string
		addrs          []netip.Addr
	}{
		{"api-ca", &s.api, &s.kubectl, [2]string{"apiserver", "admin"}, []netip.Addr{n.Loopback}},
		{"kubelet-ca", &s.kubelet, &s.kubeletClient, [2]string{"kubelet", "apiserver-kubelet-client"}, []netip.Addr{n.NodeIP}},
		{"frontend-ca", &s.frontendServer, &s.frontendClient, [2]string{"frontend", "apiserver-egress"}, []netip.Addr{n.Loopback}},
		{"tunnel-ca", &s.tunnelServer, &s.tunnelAgent, [2]string{"proxy-server", "proxy-agent"}, []netip.Addr{n.Public}},
	} {
		ca, err := certs.New(dir, boundary.authority)
		if err != nil {
			return s, err
		}
		if *boundary.server, err = ca.Issue(boundary.names[0], "", boundary.addrs...); err != nil {
			return s, err
		}
		if *boundary.client, err = ca.Issue(boundary.names[1], "system:masters"); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *Site) start() error {
	var err error
	s.kubelet, err = s.role(s.Net.Node, RoleKubelet, kubelet.Config{
		NodeIP: s.Net.NodeIP.String(), PodIP: s.Net.PodIP.String(), OnlyNode: s.Net.OnlyNode.String(),
		Serving: s.certs.kubelet,
	})
	if err != nil {
		return err
	}
	config := apiserver.Config{
		Listen: s.Net.Loopback.String(), NodeIP: s.Net.NodeIP.String(), PodIP: s.Net.PodIP.String(),
		Serving: s.certs.api, Kubelet: s.certs.kubeletClient,
	}
	for _, c := range s.Cells {
		config.Cells = append(config.Cells, apiserver.Cell{Port: c.ports.api, EgressFile: c.file("egress.yaml")})
	}
	s.apiserver, err = s.role(s.Net.ControlPlane, RoleAPIServer, config)
	return err
}

// role starts this program again, inside a namespace, as one of the stand-ins.
func (s *Site) role(ns, role string, config any) (*proc.Process, error) {
	cmd := topology.Command(ns, s.self)
	if err := proc.AsRole(cmd, role, config); err != nil {
		return nil, err
	}
	p, err := proc.Start(role+" "+s.Net.Family, cmd)
	if err != nil {
		return nil, err
	}
	return p, p.AwaitLine(startLimit)
}

// Stop ends every process of the site.
func (s *Site) Stop() {
	for _, c := range s.Cells {
		c.Stop()
	}
	s.apiserver.Stop()
	s.kubelet.Stop()
}

func join(addr netip.Addr, port int) string {
	return net.JoinHostPort(addr.String(), strconv.Itoa(port))
}
