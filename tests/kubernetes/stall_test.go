package kubernetes_test

import (
	"context"
	"io"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// A client that stops reading an endless output keeps nobody else waiting.
func TestStalledReader(t *testing.T) {
	if *oracleFlag {
		t.Skip("upstream's agent stops for everybody when one reader stalls")
	}
	ours := func(c *cluster.Cell) bool { return c.Plan.Pairing == "" }
	inCells(t, only(cells(t), ours), 90*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		limit := max(3*echoes(ctx, t, c), 3*time.Second)
		// A busy machine may be late once; who is held up is late each time.
		var late []time.Duration
		for range 3 {
			slowest := besideStalled(ctx, t, c)
			if slowest <= limit {
				return
			}
			late = append(late, slowest)
		}
		t.Errorf("beside a stalled reader commands took %v, each time over %s", late, limit)
	})
}

// besideStalled is how long the slowest of a few commands took while a client
// does not read.
func besideStalled(ctx context.Context, t *testing.T, c *cluster.Cell) (slowest time.Duration) {
	t.Helper()
	stalled := c.Kubectl(ctx, "exec", "web", "-c", "web", "--", "cat", "/dev/zero")
	out, err := stalled.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stalled.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stalled.Process.Kill()
		_ = stalled.Wait()
	}()
	if _, err := io.ReadFull(out, make([]byte, 1<<20)); err != nil {
		t.Fatalf("the endless output: %v", err)
	}
	for range 4 {
		slowest = max(slowest, echoes(ctx, t, c))
	}
	return slowest
}

// echoes is how long a command takes that says a word.
func echoes(ctx context.Context, t *testing.T, c *cluster.Cell) time.Duration {
	t.Helper()
	word, begin := unique(t), time.Now()
	if got := run(ctx, t, c.Kubectl(ctx, "exec", "web", "-c", "web", "--", "echo", word), ""); got != word+"\n" {
		t.Errorf("asked for %q, got %q", word, got)
	}
	return time.Since(begin)
}
