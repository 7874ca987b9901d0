package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// A session that stays calm moves into the kernel's map where that was proven,
// and comes out of it whole when it turns into a bulk transfer.
func TestCalmThenBulk(t *testing.T) {
	bulk := make([]byte, 32<<20)
	_, _ = rand.Read(bulk)
	raw := func(c *cluster.Cell) bool {
		return c.Plan.Path() == "lane-raw" && (c.Plan.Family == "ipv4" || c.Plan.Frontend == "http-connect-uds")
	}
	inCells(t, only(cells(t), raw), time.Minute, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		cmd := c.Kubectl(ctx, "exec", "-i", "web", "-c", "web", "--", "cat")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		before := inMap(t, c)
		// Longer than any flow has to stay calm, or until it was promoted.
		for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(100 * time.Millisecond) {
			back(t, stdin, out, []byte(unique(t)+"\n"))
			if inMap(t, c) > before {
				break
			}
		}
		inSockmap := inMap(t, c) - before
		if proven(t, c) && inSockmap == 0 {
			t.Error("sockmap was proven, yet the agent mapped no byte of a calm session")
		}
		back(t, stdin, out, bulk)
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the session ended with %v", err)
		}
		t.Logf("%d bytes went through the map before the bulk", inSockmap)
	})
}

// back writes and reads the same bytes at the same time.
func back(t *testing.T, stdin io.Writer, out io.Reader, sent []byte) {
	t.Helper()
	wrote := make(chan error, 1)
	go func() {
		_, err := stdin.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(out, got); err != nil {
		t.Fatalf("%d of %d bytes came back: %v", n, len(sent), err)
	}
	if err := <-wrote; err != nil {
		t.Fatalf("writing: %v", err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came back changed", len(sent))
	}
}

func inMap(t *testing.T, c *cluster.Cell) int64 {
	t.Helper()
	metrics, err := c.AgentMetrics()
	if err != nil {
		t.Fatal(err)
	}
	return metrics.Carried("to_target")["sockmap"]
}

func proven(t *testing.T, c *cluster.Cell) bool {
	t.Helper()
	metrics, err := c.AgentMetrics()
	if err != nil {
		t.Fatal(err)
	}
	return metrics.Sum("konduit_engine_proven", `engine="sockmap-tcp"`) == 1
}
