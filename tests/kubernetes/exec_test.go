package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// The two ways kubectl carries streams to the API server.
var transports = map[string]string{
	"websocket": "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true",
	"spdy":      "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false",
}

func eachTransport(t *testing.T, c *cluster.Cell, f func(t *testing.T, env string)) {
	for name, env := range transports {
		over(t, c, name, func(t *testing.T) { f(t, env) })
	}
}

// over runs f, which asks for streams by that transport alone. kubectl takes
// SPDY by itself, and says nothing, where WebSocket fails.
func over(t *testing.T, c *cluster.Cell, transport string, f func(t *testing.T)) {
	t.Run(transport, func(t *testing.T) {
		before := count(t, c).Upgrades
		f(t)
		now := count(t, c).Upgrades
		asked := map[string]int64{"websocket": now.WebSocket - before.WebSocket, "spdy": now.SPDY - before.SPDY}
		for other, times := range asked {
			if (times > 0) != (other == transport) {
				t.Errorf("kubectl asked %d times over %s", times, other)
			}
		}
	})
}

// Output, error output and the exit code come back apart.
func TestExec(t *testing.T) {
	inEveryCell(t, 60*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		eachTransport(t, c, func(t *testing.T, env string) {
			var out, errs bytes.Buffer
			cmd := c.Kubectl(ctx, "exec", "web", "-c", "web", "--", "sh", "-c", "echo to-out; echo to-err >&2; exit 7")
			cmd.Env = append(cmd.Env, env)
			cmd.Stdout, cmd.Stderr = &out, &errs
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Errorf("exit code 7 came back as %v", err)
			}
			if out.String() != "to-out\n" {
				t.Errorf("standard output is %q", out.String())
			}
			if !strings.HasPrefix(errs.String(), "to-err\n") {
				t.Errorf("standard error is %q", errs.String())
			}
		})
	})
}

// Everything written to stdin arrives, its end too, and comes back unchanged.
func TestExecStdin(t *testing.T) {
	sent := make([]byte, 3<<20+17)
	_, _ = rand.Read(sent)
	inEveryCell(t, 30*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		eachTransport(t, c, func(t *testing.T, env string) {
			var out, errs bytes.Buffer
			cmd := c.Kubectl(ctx, "exec", "-i", "web", "-c", "web", "--", "cat")
			cmd.Env = append(cmd.Env, env)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(sent), &out, &errs
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, errs.String())
			}
			if !bytes.Equal(out.Bytes(), sent) {
				t.Errorf("sent %d bytes, got %d back, equal: false", len(sent), out.Len())
			}
		})
	})
}
