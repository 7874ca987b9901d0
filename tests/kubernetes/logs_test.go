package kubernetes_test

import (
	"bufio"
	"context"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// A follower sees what the container wrote before, and what it writes later.
func TestLogsFollow(t *testing.T) {
	inEveryCell(t, 20*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		follower := c.Kubectl(ctx, "logs", "-f", "web", "-c", "web")
		out, err := follower.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := follower.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = follower.Process.Kill()
			_ = follower.Wait()
		}()
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "web is up" {
			t.Fatalf("the first line of the log is %q", lines.Text())
		}
		word := unique(t)
		run(ctx, t, c.Kubectl(ctx, "attach", "-i", "web", "-c", "web"), word+"\n")
		for lines.Scan() {
			if lines.Text() == "web heard: "+word {
				return
			}
		}
		t.Fatalf("the log ended before the new line came: %v", ctx.Err())
	})
}
