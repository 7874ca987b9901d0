package kubernetes_test

import (
	"context"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// Either side may be killed and come back: the other one is ready again
// without being restarted, and a new command gets through.
func TestComesBack(t *testing.T) {
	some := func(c *cluster.Cell) bool {
		return c.Plan.Family == "ipv4" && (c.Plan.Lanes == "raw" || c.Plan.Frontend == "http-connect-uds")
	}
	for what, restart := range map[string]func(*cluster.Cell, context.Context) error{
		"agent": (*cluster.Cell).RestartAgent, "server": (*cluster.Cell).RestartServer,
	} {
		t.Run(what, func(t *testing.T) {
			inCells(t, only(cells(t), some), 90*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
				if err := restart(c, ctx); err != nil {
					t.Fatal(err)
				}
				begin, word := count(t, c), unique(t)
				if got := run(ctx, t, c.Kubectl(ctx, "exec", "web", "-c", "web", "--", "echo", word), ""); got != word+"\n" {
					t.Errorf("asked for %q, got %q", word, got)
				}
				sameCounts(ctx, t, c, begin)
			})
		})
	}
}
