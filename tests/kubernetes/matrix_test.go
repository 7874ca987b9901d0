package kubernetes_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
	"konduit/tests/kubernetes/internal/topology"
)

var (
	serverFlag         = flag.String("server", env("KONDUIT_SERVER", "../../target/release/proxy-server"), "proxy-server to test (KONDUIT_SERVER)")
	agentFlag          = flag.String("agent", env("KONDUIT_AGENT", "../../target/release/proxy-agent"), "proxy-agent to test (KONDUIT_AGENT)")
	oracleFlag         = flag.Bool("oracle", false, "the binaries are upstream's: leave this project's flags out, lanes are off")
	upstreamServerFlag = flag.String("upstream-server", env("KONDUIT_UPSTREAM_SERVER", ""), "upstream's proxy-server, to pair with our agent")
	upstreamAgentFlag  = flag.String("upstream-agent", env("KONDUIT_UPSTREAM_AGENT", ""), "upstream's proxy-agent, to pair with our server")
	fullFlag           = flag.Bool("full", os.Getenv("KONDUIT_FULL") != "", "copy 1 GiB in every cell (KONDUIT_FULL)")
)

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// plans is the matrix: every frontend with every kind of lane, in both
// address families.
func plans(t *testing.T) []cluster.Plan {
	t.Helper()
	binaries := cluster.Binaries{
		Server: program(t, *serverFlag), Agent: program(t, *agentFlag),
		ServerIsOurs: !*oracleFlag, AgentIsOurs: !*oracleFlag,
	}
	lanes := cluster.Lanes
	if *oracleFlag {
		lanes = []string{"off"}
	}
	var all []cluster.Plan
	for _, family := range topology.Families() {
		for _, frontend := range cluster.Frontends {
			for _, lane := range lanes {
				// The address family has no say in what is chosen.
				if lane == "default" && family != "ipv4" {
					continue
				}
				all = append(all, cluster.Plan{Family: family, Frontend: frontend, Lanes: lane, Binaries: binaries})
			}
		}
	}
	return append(all, pairings(t, binaries)...)
}

// pairings mixes our binaries with upstream's, when those are given: no lane
// can come up, and everything must work all the same.
func pairings(t *testing.T, ours cluster.Binaries) []cluster.Plan {
	t.Helper()
	mixed := map[string]cluster.Binaries{}
	if *upstreamServerFlag != "" {
		mixed["upstream-server"] = cluster.Binaries{Server: program(t, *upstreamServerFlag), Agent: ours.Agent, AgentIsOurs: true}
	}
	if *upstreamAgentFlag != "" {
		mixed["upstream-agent"] = cluster.Binaries{Server: ours.Server, Agent: program(t, *upstreamAgentFlag), ServerIsOurs: true}
	}
	var all []cluster.Plan
	for pairing, binaries := range mixed {
		for _, frontend := range cluster.Frontends {
			all = append(all, cluster.Plan{Family: "ipv4", Frontend: frontend, Lanes: "raw", Pairing: pairing, Binaries: binaries})
		}
	}
	return all
}

func program(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no program to test at %s: build it, or name another one with -server and -agent", path)
	}
	return path
}

var world struct {
	sync.Once
	err   error
	dir   string
	sites []*cluster.Site
}

// cells starts the sites on first use.
func cells(t *testing.T) []*cluster.Cell {
	t.Helper()
	all := plans(t)
	world.Do(func() {
		world.dir = os.Getenv(dirEnv)
		for _, family := range topology.Families() {
			var mine []cluster.Plan
			for _, p := range all {
				if p.Family == family {
					mine = append(mine, p)
				}
			}
			site, err := cluster.NewSite(world.dir, family, mine)
			if err != nil {
				world.err = err
				return
			}
			world.sites = append(world.sites, site)
		}
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	var out []*cluster.Cell
	for _, site := range world.sites {
		out = append(out, site.Cells...)
	}
	return out
}

func stopSites() {
	for _, site := range world.sites {
		site.Stop()
	}
}

// inEveryCell runs a behaviour once per cell, within a deadline of its own,
// and holds the flow counters against the client's dials each time.
func inEveryCell(t *testing.T, limit time.Duration, behave behaviour) {
	inCells(t, cells(t), limit, behave)
}

func only(some []*cluster.Cell, want func(*cluster.Cell) bool) []*cluster.Cell {
	return slices.DeleteFunc(some, func(c *cluster.Cell) bool { return !want(c) })
}

type behaviour func(ctx context.Context, t *testing.T, c *cluster.Cell)

func inCells(t *testing.T, some []*cluster.Cell, limit time.Duration, behave behaviour) {
	for _, cell := range some {
		t.Run(cell.Plan.Name(), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Log(cell.Logs())
					cell.Stop() // the next behaviour begins with fresh ones
				}
			}()
			if err := cell.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			before, was := count(t, cell), cell.Generation()
			behave(ctx, t, cell)
			// A program that was replaced has begun to count anew.
			if !t.Failed() && cell.Generation() == was {
				sameCounts(ctx, t, cell, before)
			}
		})
	}
}

func count(t *testing.T, cell *cluster.Cell) cluster.Counts {
	t.Helper()
	counts, err := cell.Count()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// sameCounts waits until server and agent have counted as many flows as the
// client dialed, and hold as many as the client has open.
func sameCounts(ctx context.Context, t *testing.T, cell *cluster.Cell, before cluster.Counts) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		wrong := difference(cell.Plan, before, count(t, cell))
		if wrong == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Error(wrong)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func difference(plan cluster.Plan, before, now cluster.Counts) string {
	dials := now.Client.Opened - before.Client.Opened
	byServer, byAgent := now.ServerPaths.Since(before.ServerPaths), now.AgentPaths.Since(before.AgentPaths)
	switch {
	case now.Strangers != before.Strangers:
		return fmt.Sprintf("%d connections went to the control plane's own addresses instead of the tunnel", now.Strangers-before.Strangers)
	case now.Server-before.Server != dials:
		return fmt.Sprintf("the API server dialed %d times, the proxy server counted %d flows", dials, now.Server-before.Server)
	case now.Agent-before.Agent != dials:
		return fmt.Sprintf("the API server dialed %d times, the agent counted %d flows", dials, now.Agent-before.Agent)
	case now.TargetOpen != now.Client.Open:
		return fmt.Sprintf("the API server holds %d connections, the agent %d", now.Client.Open, now.TargetOpen)
	case plan.Binaries.ServerIsOurs && !byServer.Are(plan.Path(), dials):
		return fmt.Sprintf("the server says %v carried the flows, not %q all %d", byServer, plan.Path(), dials)
	case plan.Binaries.AgentIsOurs && !byAgent.Are(plan.Path(), dials):
		return fmt.Sprintf("the agent says %v carried the flows, not %q all %d", byAgent, plan.Path(), dials)
	}
	return ""
}
