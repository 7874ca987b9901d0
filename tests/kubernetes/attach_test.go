package kubernetes_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// A client that attached talks with the running process.
func TestAttach(t *testing.T) {
	inEveryCell(t, 60*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		eachTransport(t, c, func(t *testing.T, env string) {
			cmd := c.Kubectl(ctx, "attach", "-i", "web", "-c", "web")
			cmd.Env = append(cmd.Env, env)
			stdin, out := pipes(t, cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				word := unique(t)
				if _, err := io.WriteString(stdin, word+"\n"); err != nil {
					t.Fatal(err)
				}
				if !out.Scan() || !strings.Contains(out.Text(), "web heard: "+word) {
					t.Fatalf("wrote %q, read %q (%v)", word, out.Text(), ctx.Err())
				}
			}
			_ = stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("detaching: %v", err)
			}
		})
	})
}
