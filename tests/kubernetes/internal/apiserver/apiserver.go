// Package apiserver is a stand-in API server. It keeps three fixed objects and
// forwards subresources with the API server's own code: the egress selector
// dials, UpgradeAwareHandler and the stream translators forward.
//
// One process serves any number of cells, each on its own port and with an
// egress selector configuration of its own.
package apiserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/transport"

	"konduit/tests/kubernetes/internal/certs"
	"konduit/tests/kubernetes/internal/kubelet"
)

// Config of the process.
type Config struct {
	Listen        string // address of every cell's port
	NodeIP, PodIP string
	Serving       certs.Pair // towards kubectl
	Kubelet       certs.Pair // towards the kubelet
	Cells         []Cell
}

// Cell is one port and the way out of it.
type Cell struct {
	Port       int
	EgressFile string
}

// Counts is what GET /stand-in/counts answers.
type Counts struct {
	Dials Dials `json:"dials"`
	// Strangers counts connections to the control plane's own listeners on
	// the node's and the pod's addresses: dials that did not take the tunnel.
	Strangers int64 `json:"strangers"`
	// Upgrades counts requests for streams by how kubectl asked.
	Upgrades Upgrades `json:"upgrades"`
}

// Upgrades counts requests for streams: kubectl goes on over SPDY by itself
// where WebSocket fails.
type Upgrades struct {
	WebSocket int64 `json:"websocket"`
	SPDY      int64 `json:"spdy"`
}

type cell struct {
	config           Config
	egress           *egress
	kubelet, cluster http.RoundTripper
	websocket, spdy  atomic.Int64
}

// Run serves every cell until the process ends. It writes one line when all
// of them listen.
func Run(config Config) error {
	strangers, err := decoys(config)
	if err != nil {
		return err
	}
	tlsConfig, err := config.Serving.Mutual()
	if err != nil {
		return err
	}
	failed := make(chan error, len(config.Cells))
	for _, c := range config.Cells {
		handler, err := newCell(config, c, strangers)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", hostPort(config.Listen, c.Port))
		if err != nil {
			return fmt.Errorf("listening as the API server: %w", err)
		}
		server := &http.Server{Handler: handler, TLSConfig: tlsConfig.Clone()}
		go func() { failed <- server.ServeTLS(listener, "", "") }()
	}
	fmt.Println("listening on", len(config.Cells), "ports")
	return <-failed
}

func newCell(config Config, c Cell, strangers *atomic.Int64) (http.Handler, error) {
	way, err := newEgress(c.EgressFile)
	if err != nil {
		return nil, err
	}
	// The API server's transport to kubelets, with verification switched on.
	toKubelet, err := transport.New(&transport.Config{
		TLS:        transport.TLSConfig{CAFile: config.Kubelet.CA, CertFile: config.Kubelet.Cert, KeyFile: config.Kubelet.Key},
		DialHolder: &transport.DialHolder{Dial: way.DialContext},
	})
	if err != nil {
		return nil, err
	}
	// Its transport to pods and services verifies nothing.
	toCluster := utilnet.SetTransportDefaults(&http.Transport{
		DialContext:     way.DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	})
	s := &cell{config: config, egress: way, kubelet: toKubelet, cluster: toCluster}
	mux := http.NewServeMux()
	s.serveObjects(mux)
	s.serveSubresources(mux)
	mux.HandleFunc("GET /stand-in/counts", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, Counts{
			Dials: way.count(), Strangers: strangers.Load(),
			Upgrades: Upgrades{WebSocket: s.websocket.Load(), SPDY: s.spdy.Load()},
		})
	})
	mux.HandleFunc("POST /stand-in/close-idle", func(w http.ResponseWriter, _ *http.Request) {
		utilnet.CloseIdleConnectionsFor(toKubelet)
		toCluster.CloseIdleConnections()
		writeJSON(w, http.StatusOK, way.count())
	})
	return mux, nil
}

// decoys listens on the targets' addresses inside the control plane, where the
// same addresses exist, and counts whoever comes.
func decoys(config Config) (*atomic.Int64, error) {
	var strangers atomic.Int64
	for _, addr := range []string{
		hostPort(config.NodeIP, kubelet.Port), hostPort(config.PodIP, kubelet.PodHTTPPort), hostPort(config.PodIP, kubelet.PodEchoPort),
	} {
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listening as a decoy: %w", err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				strangers.Add(1)
				_ = conn.Close()
			}
		}()
	}
	return &strangers, nil
}

func hostPort(host string, port int) string { return joinPort(host, strconv.Itoa(port)) }

func joinPort(host, port string) string { return net.JoinHostPort(host, port) }
