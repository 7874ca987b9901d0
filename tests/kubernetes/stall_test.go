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
	inCells(t, only(cells(t), ours), 60*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
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
			word, begin := unique(t), time.Now()
			if got := run(ctx, t, c.Kubectl(ctx, "exec", "web", "-c", "web", "--", "echo", word), ""); got != word+"\n" {
				t.Errorf("asked for %q, got %q", word, got)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("beside a stalled reader a command took %s", took)
			}
		}
	})
}
