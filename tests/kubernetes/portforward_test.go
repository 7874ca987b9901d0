package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
	"konduit/tests/kubernetes/internal/kubelet"
	"konduit/tests/kubernetes/internal/topology"
)

var tunnels = map[string]string{
	"websocket": "KUBECTL_PORT_FORWARD_WEBSOCKETS=true",
	"spdy":      "KUBECTL_PORT_FORWARD_WEBSOCKETS=false",
}

// One forwarded port carries several connections at the same time.
func TestPortForward(t *testing.T) {
	inEveryCell(t, 30*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		for name, env := range tunnels {
			over(t, c, name, func(t *testing.T) {
				local := forward(ctx, t, c, env, kubelet.PodEchoPort)
				failed := make(chan error, 8)
				for i := range cap(failed) {
					go func() { failed <- echo(ctx, c, local, 1<<18+i) }()
				}
				for range cap(failed) {
					if err := <-failed; err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
}

// HTTP through a forwarded port, found by the service's name.
func TestPortForwardService(t *testing.T) {
	inEveryCell(t, 60*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		local := forward(ctx, t, c, tunnels["websocket"], 80, "service/web")
		client := c.Site().Client()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local+"/hello?from=service", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || !strings.Contains(string(body), "you asked for /hello?from=service") {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

// forward runs kubectl port-forward for the rest of the test and gives the
// local address that it chose.
func forward(ctx context.Context, t *testing.T, c *cluster.Cell, env string, port int, target ...string) string {
	t.Helper()
	if target == nil {
		target = []string{"pod/web"}
	}
	args := append([]string{"port-forward", "--address", c.Site().Net.Loopback.String()}, target...)
	cmd := c.Kubectl(ctx, append(args, fmt.Sprintf(":%d", port))...)
	cmd.Env = append(cmd.Env, env)
	_, out := pipes(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for out.Scan() {
		if rest, ok := strings.CutPrefix(out.Text(), "Forwarding from "); ok {
			local, _, _ := strings.Cut(rest, " -> ")
			go func() { // "Handling connection for ..."
				for out.Scan() {
				}
			}()
			return local
		}
	}
	t.Fatalf("port-forward did not start (%v)\n%s", ctx.Err(), cmd.Stderr)
	return ""
}

// echo sends n bytes to an echo server and compares what comes back.
func echo(ctx context.Context, c *cluster.Cell, addr string, n int) error {
	conn, err := topology.Dial(ctx, c.Site().Net.ControlPlane, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	sent := make([]byte, n)
	_, _ = rand.Read(sent)
	go func() { _, _ = conn.Write(sent) }()
	got := make([]byte, n)
	if read, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", read, n, err)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes came back changed", n)
	}
	return nil
}
