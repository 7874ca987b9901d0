package kubernetes_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
	"konduit/tests/kubernetes/internal/kubelet"
)

// Upstream's Go client straight at the gRPC frontend: a connection per tunnel,
// and many dials on one connection.
func TestKonnectivityClient(t *testing.T) {
	grpc := only(cells(t), func(c *cluster.Cell) bool { return c.Plan.Frontend == "grpc-uds" })
	inCells(t, grpc, 2*time.Minute, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		n := c.Site().Net
		for _, tunnel := range []string{"single", "reusable"} {
			for _, name := range []string{"basic", "large", "concurrent", "cancelled"} {
				t.Run(tunnel+"/"+name, func(t *testing.T) {
					out := run(ctx, t, exec.CommandContext(ctx, os.Getenv(clientEnv),
						"-socket", c.Socket(), "-tunnel", tunnel, "-case", name,
						"-echo", net.JoinHostPort(n.PodIP.String(), strconv.Itoa(kubelet.PodEchoPort)),
						"-dark", net.JoinHostPort(n.Dark.String(), "9")), "")
					dials, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					c.Dialed(dials)
				})
			}
		}
	})
}
