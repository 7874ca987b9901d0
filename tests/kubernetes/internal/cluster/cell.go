package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"konduit/tests/kubernetes/internal/proc"
	"konduit/tests/kubernetes/internal/topology"
)

// Cell is one proxy server with its agent, and the API server's port that
// dials through them.
type Cell struct {
	Plan          Plan
	site          *Site
	dir           string
	ports         ports
	server, agent *proc.Process
	generation    int
	direct        atomic.Int64
}

// Site is where the cell stands.
func (c *Cell) Site() *Site { return c.site }

// Dialed tells the cell of dials that did not come from the API server.
func (c *Cell) Dialed(n int64) { c.direct.Add(n) }

func (c *Cell) file(name string) string { return filepath.Join(c.dir, name) }

func (c *Cell) writeFiles() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(c.file("egress.yaml"), []byte(c.egressConfiguration()), 0o600); err != nil {
		return err
	}
	k := c.site.certs.kubectl
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://%s", certificate-authority: %s}}]
users: [{name: u, user: {client-certificate: %s, client-key: %s}}]
`, join(c.site.Net.Loopback, c.ports.api), k.CA, k.Cert, k.Key)
	return os.WriteFile(c.file("kubeconfig"), []byte(kubeconfig), 0o600)
}

// Start brings server and agent up, unless both are running.
func (c *Cell) Start(ctx context.Context) error {
	if alive(c.server) && alive(c.agent) {
		return nil
	}
	c.Stop()
	// At the same time: each first tests what the machine can do.
	if err := c.startServer(); err != nil {
		return err
	}
	if err := c.startAgent(); err != nil {
		return err
	}
	return c.connected(ctx)
}

// RestartServer kills the server and waits until the agent has come back to
// the new one.
func (c *Cell) RestartServer(ctx context.Context) error {
	c.server.Stop()
	if err := c.startServer(); err != nil {
		return err
	}
	return c.connected(ctx)
}

// RestartAgent kills the agent and waits until the server has a new one.
func (c *Cell) RestartAgent(ctx context.Context) error {
	c.agent.Stop()
	if err := c.await(ctx, c.inControlPlane(), c.ports.serverHealth, "/readyz", false); err != nil {
		return fmt.Errorf("the server did not miss its agent: %w\n%s", err, c.Logs())
	}
	if err := c.startAgent(); err != nil {
		return err
	}
	return c.connected(ctx)
}

// Generation changes with every start of a server or an agent.
func (c *Cell) Generation() int { return c.generation }

func (c *Cell) startServer() (err error) {
	c.generation++
	cmd := topology.Command(c.site.Net.ControlPlane, c.Plan.Binaries.Server, c.serverArgs()...)
	c.server, err = proc.Start("proxy-server "+c.Plan.Name(), cmd)
	return err
}

func (c *Cell) startAgent() (err error) {
	c.generation++
	cmd := topology.Command(c.site.Net.Node, c.Plan.Binaries.Agent, c.agentArgs()...)
	c.agent, err = proc.Start("proxy-agent "+c.Plan.Name(), cmd)
	return err
}

// connected waits for both: either may know of the other first.
func (c *Cell) connected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := c.await(ctx, c.inControlPlane(), c.ports.serverHealth, "/readyz", true); err != nil {
		return fmt.Errorf("the agent did not connect to the server: %w\n%s", err, c.Logs())
	}
	if err := c.await(ctx, inside(c.site.Net.Node), c.ports.agentHealth, "/readyz", true); err != nil {
		return fmt.Errorf("the agent did not become ready: %w\n%s", err, c.Logs())
	}
	return nil
}

// await asks a health port until it says yes, or no.
func (c *Cell) await(ctx context.Context, client *http.Client, port int, path string, yes bool) error {
	var last error
	for {
		response, err := client.Get("http://" + join(c.site.Net.Loopback, port) + path)
		if err == nil {
			response.Body.Close()
			if (response.StatusCode == http.StatusOK) == yes {
				return nil
			}
			err = errors.New(response.Status)
		}
		last = err
		select {
		case <-c.server.Done():
			return errors.New("the server ended")
		case <-c.agentGone(yes):
			return errors.New("the agent ended")
		case <-ctx.Done():
			return fmt.Errorf("%w, last answer: %w", ctx.Err(), last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// agentGone fires when the agent ends, unless that is what is waited for.
func (c *Cell) agentGone(wanted bool) <-chan struct{} {
	if !wanted {
		return nil
	}
	return c.agent.Done()
}

// Stop ends server and agent.
func (c *Cell) Stop() {
	c.agent.Stop()
	c.server.Stop()
	c.agent, c.server = nil, nil
}

// Logs is what every process behind the cell said last.
func (c *Cell) Logs() string {
	var all strings.Builder
	for _, p := range []*proc.Process{c.server, c.agent, c.site.apiserver, c.site.kubelet} {
		if p != nil {
			all.WriteString(p.Log())
		}
	}
	return all.String()
}

func alive(p *proc.Process) bool {
	if p == nil {
		return false
	}
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// Kubectl prepares a run of kubectl against this cell, in the control plane.
func (c *Cell) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	prepared := topology.Command(c.site.Net.ControlPlane, c.site.self, args...)
	cmd := exec.CommandContext(ctx, prepared.Path, prepared.Args[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.file("kubeconfig"), "HOME="+c.dir, "KUBECACHEDIR="+c.file("cache"))
	_ = proc.AsRole(cmd, RoleKubectl, nil)
	return cmd
}
