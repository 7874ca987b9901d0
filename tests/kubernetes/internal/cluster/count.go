package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"konduit/tests/kubernetes/internal/apiserver"
)

const (
	serverDials = "konnectivity_network_proxy_server_dial_duration_seconds_count"
	agentDials  = "konnectivity_network_proxy_agent_dial_duration_seconds_count"
	agentOpen   = "konnectivity_network_proxy_agent_open_endpoint_connections"
)

// Counts puts what the API server did beside what both binaries counted.
type Counts struct {
	Client     apiserver.Dials
	Strangers  int64
	Upgrades   apiserver.Upgrades
	Server     int64 // flows the server established
	Agent      int64 // targets the agent reached
	TargetOpen int64 // target connections that the agent holds
	// What carried the flows, said by either binary; empty for upstream's.
	ServerPaths, AgentPaths Paths
}

// Count asks the API server, the proxy server and the agent.
func (c *Cell) Count() (Counts, error) {
	var counts Counts
	var api apiserver.Counts
	if err := c.api(http.MethodGet, "/stand-in/counts", &api); err != nil {
		return counts, err
	}
	server, err := c.ServerMetrics()
	if err != nil {
		return counts, err
	}
	agent, err := c.AgentMetrics()
	if err != nil {
		return counts, err
	}
	api.Dials.Opened += c.direct.Load()
	return Counts{
		Client: api.Dials, Strangers: api.Strangers, Upgrades: api.Upgrades,
		Server: int64(server.Sum(serverDials)), Agent: int64(agent.Sum(agentDials)), TargetOpen: int64(agent.Sum(agentOpen)),
		ServerPaths: server.paths(), AgentPaths: agent.paths(),
	}, nil
}

// CloseIdle makes the API server close connections that it keeps for reuse.
func (c *Cell) CloseIdle() error { return c.api(http.MethodPost, "/stand-in/close-idle", nil) }

func (c *Cell) api(method, path string, into any) error {
	response, err := c.API(context.Background(), method, path, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if into == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// Metrics is one scrape: series with their labels, and their values.
type Metrics map[string]float64

// Sum adds all series of a name whose label text contains every given part.
func (m Metrics) Sum(name string, labels ...string) (sum float64) {
next:
	for series, value := range m {
		base, rest, _ := strings.Cut(series, "{")
		if base != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue next
			}
		}
		sum += value
	}
	return sum
}

// ServerMetrics scrapes the proxy server.
func (c *Cell) ServerMetrics() (Metrics, error) {
	return scrape(c.inControlPlane(), join(c.site.Net.Loopback, c.ports.serverHealth))
}

// AgentMetrics scrapes the agent.
func (c *Cell) AgentMetrics() (Metrics, error) {
	return scrape(inside(c.site.Net.Node), join(c.site.Net.Loopback, c.ports.agentHealth))
}

func scrape(client *http.Client, addr string) (Metrics, error) {
	response, err := client.Get("http://" + addr + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("scraping: %w", err)
	}
	defer response.Body.Close()
	return parseMetrics(response.Body)
}

func parseMetrics(r io.Reader) (Metrics, error) {
	metrics := Metrics{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric line %q: %w", line, err)
		}
		metrics[line[:at]] = value
	}
	return metrics, lines.Err()
}
