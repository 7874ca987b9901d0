package cluster

import (
	"context"
	"io"
	"net"
	"net/http"

	"konduit/tests/kubernetes/internal/topology"
)

// API sends a request to the API server of this cell as an administrator.
func (c *Cell) API(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	tlsConfig, err := c.site.certs.kubectl.Mutual()
	if err != nil {
		return nil, err
	}
	client := c.inControlPlane()
	client.Transport.(*http.Transport).TLSClientConfig = tlsConfig
	request, err := http.NewRequestWithContext(ctx, method, "https://"+join(c.site.Net.Loopback, c.ports.api)+path, body)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

// Client makes its connections inside the control plane.
func (s *Site) Client() *http.Client { return inside(s.Net.ControlPlane) }

func (c *Cell) inControlPlane() *http.Client { return inside(c.site.Net.ControlPlane) }

// inside gives a client whose connections are made in a namespace.
func inside(ns string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return topology.Dial(ctx, ns, addr)
		},
	}}
}
