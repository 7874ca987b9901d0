package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/generic/rest"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"konduit/tests/kubernetes/internal/kubelet"
)

// serveSubresources answers the subresources whose bytes come from the
// cluster's network, each with the handler that the API server uses for it.
func (s *cell) serveSubresources(mux *http.ServeMux) {
	pod := "/api/v1/namespaces/" + Namespace + "/pods/" + PodName
	mux.HandleFunc("GET "+pod+"/log", s.logs)
	mux.HandleFunc(pod+"/exec", func(w http.ResponseWriter, r *http.Request) { s.remoteCommand(w, r, "exec") })
	mux.HandleFunc(pod+"/attach", func(w http.ResponseWriter, r *http.Request) { s.remoteCommand(w, r, "attach") })
	mux.HandleFunc(pod+"/portforward", s.portForward)
	mux.HandleFunc("/api/v1/nodes/{name}/proxy/{path...}", s.proxyNode)
	mux.HandleFunc("/api/v1/namespaces/"+Namespace+"/pods/{name}/proxy/{path...}", s.proxyPod)
	mux.HandleFunc("/api/v1/namespaces/"+Namespace+"/services/{name}/proxy/{path...}", s.proxyService)
}

func (s *cell) kubeletURL(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: hostPort(s.config.NodeIP, kubelet.Port), Path: path, RawQuery: query.Encode()}
}

func containerOf(r *http.Request) string {
	if name := r.URL.Query().Get("container"); name != "" {
		return name
	}
	return kubelet.Containers[0]
}

func (s *cell) logs(w http.ResponseWriter, r *http.Request) {
	query := url.Values{}
	for _, name := range []string{"follow", "tailLines", "timestamps"} {
		if v := r.URL.Query().Get(name); v != "" {
			query.Set(name, v)
		}
	}
	streamer := &rest.LocationStreamer{
		Location:        s.kubeletURL(fmt.Sprintf("/containerLogs/%s/%s/%s", Namespace, PodName, containerOf(r)), query),
		Transport:       s.kubelet,
		ContentType:     "text/plain",
		Flush:           query.Get("follow") == "true",
		RedirectChecker: rest.PreventRedirects,
	}
	stream, flush, contentType, err := streamer.InputStream(r.Context(), "", "")
	if err != nil {
		(responder{}).Error(w, r, err)
		return
	}
	defer stream.Close()
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	var out io.Writer = w
	if flush {
		out = flushing{w, http.NewResponseController(w)}
	}
	_, _ = io.Copy(out, stream)
}

// remoteCommand forwards exec and attach: SPDY as it is, WebSocket by
// translating its streams to SPDY.
func (s *cell) remoteCommand(w http.ResponseWriter, r *http.Request, verb string) {
	asked := r.URL.Query()
	query := url.Values{}
	options := streamproxy.Options{Tty: asked.Get("tty") == "true"}
	for _, p := range []struct {
		api, kubelet string
		want         *bool
	}{{"stdin", "input", &options.Stdin}, {"stdout", "output", &options.Stdout}, {"stderr", "error", &options.Stderr}} {
		if asked.Get(p.api) == "true" {
			*p.want = true
			query.Set(p.kubelet, "1")
		}
	}
	if options.Tty {
		query.Set("tty", "1")
	}
	for _, word := range asked["command"] {
		query.Add("command", word)
	}
	location := s.kubeletURL(fmt.Sprintf("/%s/%s/%s/%s", verb, Namespace, PodName, containerOf(r)), query)
	forward := upgradeOnly(location, s.kubelet)
	translate := streamproxy.NewStreamTranslatorHandler(location, s.kubelet, 0, options)
	s.upgrade(forward, translate, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP(w, r)
}

func (s *cell) portForward(w http.ResponseWriter, r *http.Request) {
	forward := upgradeOnly(s.kubeletURL(fmt.Sprintf("/portForward/%s/%s", Namespace, PodName), nil), s.kubelet)
	tunnel := streamproxy.NewTunnelingHandler(forward)
	s.upgrade(forward, tunnel, wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP(w, r)
}

// upgrade counts which of the two ways a request takes.
func (s *cell) upgrade(spdy, websocket http.Handler, isWebSocket func(*http.Request) bool) http.Handler {
	return streamproxy.NewTranslatingHandler(noted(&s.spdy, spdy), noted(&s.websocket, websocket), isWebSocket)
}

func noted(requests *atomic.Int64, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		handler.ServeHTTP(w, r)
	})
}

func upgradeOnly(location *url.URL, transport http.RoundTripper) http.Handler {
	return proxy.NewUpgradeAwareHandler(location, transport, false, true, responder{})
}

// target splits "[scheme:]name[:port]".
func (s *cell) target(w http.ResponseWriter, r *http.Request, name string) (scheme, port string, ok bool) {
	scheme, id, port, valid := utilnet.SplitSchemeNamePort(r.PathValue("name"))
	if !valid || id != name {
		http.Error(w, "not found: "+r.PathValue("name"), http.StatusNotFound)
		return "", "", false
	}
	return scheme, port, true
}

func (s *cell) proxyNode(w http.ResponseWriter, r *http.Request) {
	_, port, ok := s.target(w, r, NodeName)
	if !ok {
		return
	}
	if port == "" || port == strconv.Itoa(kubelet.Port) {
		s.proxyTo(w, r, s.kubelet, "https", hostPort(s.config.NodeIP, kubelet.Port))
		return
	}
	s.proxyTo(w, r, s.cluster, "http", joinPort(s.config.NodeIP, port))
}

func (s *cell) proxyPod(w http.ResponseWriter, r *http.Request) {
	scheme, port, ok := s.target(w, r, PodName)
	if !ok {
		return
	}
	if port == "" {
		port = strconv.Itoa(kubelet.PodHTTPPort)
	}
	s.proxyTo(w, r, s.cluster, scheme, joinPort(s.config.PodIP, port))
}

// proxyService picks the service's only endpoint, the pod.
func (s *cell) proxyService(w http.ResponseWriter, r *http.Request) {
	scheme, _, ok := s.target(w, r, Service)
	if !ok {
		return
	}
	s.proxyTo(w, r, s.cluster, scheme, hostPort(s.config.PodIP, kubelet.PodHTTPPort))
}

func (s *cell) proxyTo(w http.ResponseWriter, r *http.Request, transport http.RoundTripper, scheme, host string) {
	if scheme == "" {
		scheme = "http"
	}
	location := &url.URL{Scheme: scheme, Host: host, Path: "/" + r.PathValue("path"), RawQuery: r.URL.RawQuery}
	proxy.NewUpgradeAwareHandler(location, transport, true, false, responder{}).ServeHTTP(w, r)
}

// responder reports a failed forward as the API server does: a Status object.
type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	writeJSON(w, http.StatusInternalServerError, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
		Message: "error dialing backend: " + strings.TrimSpace(err.Error()),
	})
}

type flushing struct {
	w       io.Writer
	control *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	_ = f.control.Flush()
	return n, err
}
