package kubelet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Ports the pod listens on.
const (
	PodHTTPPort = 8080
	PodEchoPort = 7007
	UniquePort  = 7009 // an echo on an address that only the node network has
)

// servePod answers plain HTTP and plain TCP as an application in a pod does.
func servePod(podIP, onlyHere string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from the pod, you asked for %s\n", r.URL.RequestURI())
	})
	mux.HandleFunc("POST /sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %s\n", n, hex.EncodeToString(sum.Sum(nil)))
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	web, err := net.Listen("tcp", net.JoinHostPort(podIP, fmt.Sprint(PodHTTPPort)))
	if err != nil {
		return err
	}
	echo, err := net.Listen("tcp", net.JoinHostPort(podIP, fmt.Sprint(PodEchoPort)))
	if err != nil {
		return err
	}
	unique, err := net.Listen("tcp", net.JoinHostPort(onlyHere, fmt.Sprint(UniquePort)))
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(web, mux) }()
	go serveEcho(unique)
	go serveEcho(echo)
	return nil
}

// serveEcho sends back what it reads and closes its side after the client's.
func serveEcho(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}
