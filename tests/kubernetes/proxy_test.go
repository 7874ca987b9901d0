package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// The proxy subresources of node, pod and service.
func TestProxySubresources(t *testing.T) {
	const inNamespace = "/api/v1/namespaces/default/"
	cases := []struct{ name, path, want string }{
		{"node", "/api/v1/nodes/node-1/proxy/healthz", "ok"},
		{"node with port", "/api/v1/nodes/https:node-1:10250/proxy/stats/summary?only=cpu", `"query":"only=cpu"`},
		{"pod", inNamespace + "pods/web/proxy/hello?a=1", "you asked for /hello?a=1"},
		{"pod with port", inNamespace + "pods/http:web:8080/proxy/hello", "hello from the pod"},
		{"service", inNamespace + "services/web:http/proxy/hello?b=2", "you asked for /hello?b=2"},
	}
	inEveryCell(t, 20*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		for _, k := range cases {
			t.Run(k.name, func(t *testing.T) {
				got := run(ctx, t, c.Kubectl(ctx, "get", "--raw", k.path), "")
				if !strings.Contains(got, k.want) {
					t.Errorf("%s gave %q, not %q", k.path, got, k.want)
				}
			})
		}
	})
}

// A large body goes to a pod whole, and a large one comes back.
func TestProxyBody(t *testing.T) {
	sent := make([]byte, 16<<20)
	_, _ = rand.Read(sent)
	inEveryCell(t, 30*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		const base = "/api/v1/namespaces/default/services/web/proxy"
		sum := post(ctx, t, c, base+"/sum", sent)
		if want := fmt.Sprintf("%d %x\n", len(sent), sha256.Sum256(sent)); string(sum) != want {
			t.Errorf("the pod received %q, not %q", sum, want)
		}
		if back := post(ctx, t, c, base+"/echo", sent); !bytes.Equal(back, sent) {
			t.Errorf("sent %d bytes, %d came back, equal: false", len(sent), len(back))
		}
	})
}

func post(ctx context.Context, t *testing.T, c *cluster.Cell, path string, body []byte) []byte {
	t.Helper()
	response, err := c.API(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s after %d bytes: %v", path, response.Status, len(got), err)
	}
	return got
}
