package kubernetes_test

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/kubelet"
	"konduit/tests/kubernetes/internal/topology"
)

// Without the tunnel nothing in the control plane reaches the node network;
// what has the same address there is somebody else.
func TestNoRoute(t *testing.T) {
	cells(t)
	for _, site := range world.sites {
		t.Run(site.Net.Family, func(t *testing.T) {
			dial := func(ns, host string, port int) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				conn, err := topology.Dial(ctx, ns, net.JoinHostPort(host, strconv.Itoa(port)))
				if err == nil {
					conn.Close()
				}
				return err
			}
			only := site.Net.OnlyNode.String()
			if err := dial(site.Net.Node, only, kubelet.UniquePort); err != nil {
				t.Errorf("%s does not answer in the node network: %v", only, err)
			}
			if err := dial(site.Net.ControlPlane, only, kubelet.UniquePort); err == nil {
				t.Errorf("the control plane reaches %s without the tunnel", only)
			}
			if err := dial(site.Net.ControlPlane, site.Net.NodeIP.String(), kubelet.Port); err != nil {
				t.Errorf("the control plane has no listener of its own on the node's address: %v", err)
			}
		})
	}
}
