package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/egressselector"
)

// Dials counts what went through the egress selector.
type Dials struct {
	Opened int64 `json:"opened"` // dials that gave a connection
	Failed int64 `json:"failed"`
	Open   int64 `json:"open"` // connections not closed yet
}

// egress is the API server's way out towards the cluster's network.
type egress struct {
	dial                 utilnet.DialFunc
	opened, failed, open atomic.Int64
}

// newEgress reads an EgressSelectorConfiguration the way the API server does.
func newEgress(file string) (*egress, error) {
	config, err := egressselector.ReadEgressSelectorConfiguration(file)
	if err != nil {
		return nil, fmt.Errorf("reading the egress selector configuration: %w", err)
	}
	selector, err := egressselector.NewEgressSelector(config)
	if err != nil {
		return nil, fmt.Errorf("using the egress selector configuration %s: %w", file, err)
	}
	dial, err := selector.Lookup(egressselector.Cluster.AsNetworkContext())
	if err != nil {
		return nil, err
	}
	if dial == nil {
		return nil, errors.New("the configuration selects no egress for the cluster")
	}
	return &egress{dial: dial}, nil
}

func (e *egress) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := e.dial(ctx, network, addr)
	if err != nil {
		e.failed.Add(1)
		return nil, err
	}
	e.opened.Add(1)
	e.open.Add(1)
	return &counted{Conn: conn, open: &e.open}, nil
}

func (e *egress) count() Dials {
	return Dials{Opened: e.opened.Load(), Failed: e.failed.Load(), Open: e.open.Load()}
}

type counted struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
