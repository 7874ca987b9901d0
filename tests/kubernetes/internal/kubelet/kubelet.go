// Package kubelet is a stand-in kubelet: the streaming server of the container
// runtimes (k8s.io/cri-streaming) behind the kubelet's TLS port and paths, with
// real processes as containers.
package kubelet

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"konduit/tests/kubernetes/internal/certs"
)

// Port is where kubelets listen.
const Port = 10250

// Config says where the kubelet and its pod listen.
type Config struct {
	NodeIP, PodIP, OnlyNode string
	Serving                 certs.Pair
}

// Containers of the pod, in order; the second one has a terminal.
var Containers = []string{"web", "term"}

type server struct {
	streams streaming.Server
	runtime *runtime
}

// Run serves until the process ends. It writes one line when it listens.
func Run(config Config) error {
	rt := &runtime{containers: map[string]*container{}, podIP: config.PodIP}
	for i, name := range Containers {
		c, err := startContainer(name, i == 1)
		if err != nil {
			return err
		}
		rt.containers[name] = c
	}
	streams, err := streaming.NewServer(streaming.DefaultConfig, rt)
	if err != nil {
		return err
	}
	if err := servePod(config.PodIP, config.OnlyNode); err != nil {
		return fmt.Errorf("listening as the pod: %w", err)
	}
	s := &server{streams: streams, runtime: rt}
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", s.logs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", s.exec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", s.attach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", s.portForward)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /stats/summary", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"node": config.NodeIP, "query": r.URL.RawQuery})
	})
	// A kubelet asks for the API server's certificate.
	tlsConfig, err := config.Serving.Mutual()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(config.NodeIP, strconv.Itoa(Port)))
	if err != nil {
		return fmt.Errorf("listening as the kubelet: %w", err)
	}
	fmt.Println("listening on", listener.Addr())
	return (&http.Server{Handler: mux, TLSConfig: tlsConfig}).ServeTLS(listener, "", "")
}

func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	c, ok := s.runtime.containers[r.PathValue("container")]
	if !ok {
		http.Error(w, "container not found", http.StatusNotFound)
		return
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	_ = control.Flush()
	_ = c.follow(r.Context(), 0, r.FormValue("follow") == "true", w, func() { _ = control.Flush() })
}

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	answer, err := s.streams.GetExec(&runtimeapi.ExecRequest{
		ContainerId: r.PathValue("container"), Cmd: r.URL.Query()["command"],
		Stdin: flag(r, "input"), Stdout: flag(r, "output"), Stderr: flag(r, "error") && !flag(r, "tty"), Tty: flag(r, "tty"),
	})
	s.stream(w, r, answer.GetUrl(), err)
}

func (s *server) attach(w http.ResponseWriter, r *http.Request) {
	answer, err := s.streams.GetAttach(&runtimeapi.AttachRequest{
		ContainerId: r.PathValue("container"),
		Stdin:       flag(r, "input"), Stdout: flag(r, "output"), Stderr: flag(r, "error") && !flag(r, "tty"), Tty: flag(r, "tty"),
	})
	s.stream(w, r, answer.GetUrl(), err)
}

func (s *server) portForward(w http.ResponseWriter, r *http.Request) {
	answer, err := s.streams.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: r.PathValue("pod")})
	s.stream(w, r, answer.GetUrl(), err)
}

// stream hands the request to the streaming server under the one-time path
// that it answered with.
func (s *server) stream(w http.ResponseWriter, r *http.Request, location string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	next, err := r.URL.Parse(location)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.URL.Path, r.URL.RawPath = next.Path, ""
	s.streams.ServeHTTP(w, r)
}

func flag(r *http.Request, name string) bool {
	v := r.FormValue(name)
	return v == "1" || v == "true"
}
