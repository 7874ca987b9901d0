package kubernetes_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// A port where nobody listens: the API server learns that it was refused, no
// flow is counted, and the next request works.
func TestRefused(t *testing.T) {
	inEveryCell(t, 20*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		before := count(t, c)
		response, err := c.API(ctx, http.MethodGet, "/api/v1/namespaces/default/pods/http:web:9/proxy/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		// The egress selector shows only the status of an HTTP proxy's answer.
		want := "code 502"
		if c.Plan.Frontend == "grpc-uds" {
			want = "connection refused"
		}
		if !strings.Contains(string(body), want) {
			t.Errorf("the API server says %q, not %q", body, want)
		}
		if failed := count(t, c).Client.Failed - before.Client.Failed; failed != 1 {
			t.Errorf("%d dials failed, not one", failed)
		}
		run(ctx, t, c.Kubectl(ctx, "get", "--raw", "/api/v1/namespaces/default/pods/web/proxy/hello"), "")
	})
}
