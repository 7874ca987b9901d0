// Package cluster runs the pieces of a test: per address family one site (two
// networks, a kubelet, an API server), per site one cell for every way to set
// up the proxy (a server and an agent).
package cluster

import (
	"fmt"
	"path/filepath"
)

// Frontends are the ways the API server reaches the proxy server.
var Frontends = []string{"grpc-uds", "http-connect-uds", "http-connect-tcp-mtls"}

// Lanes are the ways bytes travel between server and agent. "default" is what
// they do without a flag about it.
var Lanes = []string{"raw", "encrypt", "off", "default"}

// Binaries names the programs of one cell.
type Binaries struct {
	Server, Agent string
	// ServerIsOurs and AgentIsOurs: the program knows this project's flags.
	ServerIsOurs, AgentIsOurs bool
}

// Plan is one cell to be.
type Plan struct {
	Family, Frontend, Lanes string
	Pairing                 string // "" or a word for a pair of binaries that is not the default one
	Binaries                Binaries
}

// Name is the cell's place in the matrix.
func (p Plan) Name() string {
	name := p.Family + "/" + p.Frontend + "/lanes-" + p.Lanes
	if p.Pairing != "" {
		name = p.Pairing + "/" + name
	}
	return name
}

// ports of a cell; every site has its own namespaces, so only cells of one
// site must differ.
type ports struct{ api, frontend, agent, serverAdmin, serverHealth, agentAdmin, agentHealth int }

func portsOf(index int) ports {
	base := 20000 + index*10
	return ports{base, base + 1, base + 2, base + 3, base + 4, base + 5, base + 6}
}

// Socket is the frontend's Unix socket; there is none in the TCP mode.
func (c *Cell) Socket() string { return filepath.Join(c.dir, "konnectivity-server.socket") }

// egressConfiguration is the file that tells the API server how to dial.
func (c *Cell) egressConfiguration() string {
	transport := fmt.Sprintf("uds:\n          udsName: %s", c.Socket())
	protocol := "HTTPConnect"
	switch c.Plan.Frontend {
	case "grpc-uds":
		protocol = "GRPC"
	case "http-connect-tcp-mtls":
		client := c.site.certs.frontendClient
		transport = fmt.Sprintf("tcp:\n          url: https://%s\n          tlsConfig:\n            caBundle: %s\n            clientCert: %s\n            clientKey: %s",
			join(c.site.Net.Loopback, c.ports.frontend), client.CA, client.Cert, client.Key)
	}
	return fmt.Sprintf(`apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
  - name: cluster
    connection:
      proxyProtocol: %s
      transport:
        %s
`, protocol, transport)
}

func (c *Cell) serverArgs() []string {
	k := c.site.certs
	args := []string{
		"--cluster-ca-cert=" + k.tunnelServer.CA, "--cluster-cert=" + k.tunnelServer.Cert, "--cluster-key=" + k.tunnelServer.Key,
		flagInt("agent-port", c.ports.agent), flagInt("admin-port", c.ports.serverAdmin), flagInt("health-port", c.ports.serverHealth),
		"--agent-bind-address=" + c.site.Net.Public.String(),
		"--health-bind-address=" + c.site.Net.Loopback.String(), "--admin-bind-address=" + c.site.Net.Loopback.String(),
	}
	if c.Plan.Frontend == "grpc-uds" {
		args = append(args, "--mode=grpc")
	} else {
		args = append(args, "--mode=http-connect")
	}
	if c.Plan.Frontend == "http-connect-tcp-mtls" {
		args = append(args, flagInt("server-port", c.ports.frontend), "--server-bind-address="+c.site.Net.Loopback.String(),
			"--server-ca-cert="+k.frontendServer.CA, "--server-cert="+k.frontendServer.Cert, "--server-key="+k.frontendServer.Key)
	} else {
		args = append(args, "--server-port=0", "--uds-name="+c.Socket(), "--delete-existing-uds-file")
	}
	return append(args, c.laneArgs(c.Plan.Binaries.ServerIsOurs)...)
}

func (c *Cell) agentArgs() []string {
	k := c.site.certs
	args := []string{
		"--ca-cert=" + k.tunnelAgent.CA, "--agent-cert=" + k.tunnelAgent.Cert, "--agent-key=" + k.tunnelAgent.Key,
		"--proxy-server-host=" + c.site.Net.Public.String(), flagInt("proxy-server-port", c.ports.agent),
		flagInt("admin-server-port", c.ports.agentAdmin), flagInt("health-server-port", c.ports.agentHealth),
		"--admin-bind-address=" + c.site.Net.Loopback.String(), "--health-server-host=" + c.site.Net.Loopback.String(), "--agent-id=node-1",
		"--sync-interval=200ms", "--sync-interval-cap=1s",
	}
	return append(args, c.laneArgs(c.Plan.Binaries.AgentIsOurs)...)
}

// laneArgs are flags that only this project's binaries know.
func (c *Cell) laneArgs(ours bool) []string {
	switch {
	case !ours || c.Plan.Lanes == "default":
		return nil
	case c.Plan.Lanes == "off":
		return []string{"--lanes=off"}
	default:
		// A busy machine must not turn a late lane into a flow on the mux.
		return []string{"--lanes=always", "--lane-security=" + c.Plan.Lanes, "--lane-wait=5s"}
	}
}

func flagInt(name string, v int) string { return fmt.Sprintf("--%s=%d", name, v) }
