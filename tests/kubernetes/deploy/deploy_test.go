// Package deploy_test decodes the manifests of deploy/ strictly into the Kubernetes API types.
package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverinstall "k8s.io/apiserver/pkg/apis/apiserver/install"
)

const root = "../../../deploy"

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	apiserverinstall.Install(scheme)
	return scheme
}

// documents returns every YAML document under deploy/ that is a Kubernetes object, by file name.
func documents(t *testing.T) map[string][][]byte {
	t.Helper()
	found := map[string][][]byte{}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// Rules for Prometheus; their own test reads them.
		if entry.IsDir() && entry.Name() == "observe" {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".yaml" || entry.Name() == "kustomization.yaml" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		reader := utilyaml.NewYAMLReader(newReader(text))
		for {
			document, err := reader.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if !isEmpty(document) {
				found[path] = append(found[path], document)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// isEmpty tells whether a document has nothing but comments, as the licence in front of the first one.
func isEmpty(document []byte) bool {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// Every file that a user applies or mounts.
var manifests = []string{
	"agent/daemonset.yaml", "agent/rbac.yaml", "agent/serviceaccount.yaml", "egress/grpc.yaml",
	"egress/http-connect.yaml", "server/pod.yaml", "server/rbac.yaml",
}

func TestManifestsDecodeStrictly(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme(t), serializer.EnableStrict).UniversalDeserializer()
	found := documents(t)
	for _, name := range manifests {
		if len(found[filepath.Join(root, name)]) == 0 {
			t.Errorf("no object in %s", name)
		}
	}
	for path, documents := range found {
		for _, document := range documents {
			if _, kind, err := decoder.Decode(document, nil, nil); err != nil {
				t.Errorf("%s: %v", path, err)
			} else {
				t.Logf("%s: %s", path, kind)
			}
		}
	}
}

func TestEgressConfigurationsNameTheServersSocket(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme(t), serializer.EnableStrict).UniversalDecoder()
	pod := read(t, "server/pod.yaml")
	for file, mode := range map[string]apiserver.ProtocolType{
		"egress/http-connect.yaml": apiserver.ProtocolHTTPConnect,
		"egress/grpc.yaml":         apiserver.ProtocolGRPC,
	} {
		object, _, err := decoder.Decode(read(t, file), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		connection := object.(*apiserver.EgressSelectorConfiguration).EgressSelections[0].Connection
		if connection.ProxyProtocol != mode {
			t.Errorf("%s: protocol %s, want %s", file, connection.ProxyProtocol, mode)
		}
		if socket := connection.Transport.UDS.UDSName; !strings.Contains(string(pod), "--uds-name="+socket) {
			t.Errorf("%s: the server's pod does not listen on %s", file, socket)
		}
	}
}

// What a manifest gives a binary is right when nothing but its files is
// missing: the binary tells all mistakes at once before it does anything.
func TestBinariesTakeTheManifestsArguments(t *testing.T) {
	const four, six = "192.0.2.1", "2001:db8::1"
	for _, program := range []struct{ variable, manifest, hostIP string }{
		{"KONDUIT_SERVER", "server", four},
		{"KONDUIT_SERVER", "overlays/raw-lanes/server", four},
		{"KONDUIT_AGENT", "agent", four},
		{"KONDUIT_AGENT", "overlays/raw-lanes/agent", four},
		{"KONDUIT_AGENT", "overlays/ipv6/agent", six},
	} {
		t.Run(program.manifest, func(t *testing.T) {
			binary := os.Getenv(program.variable)
			if binary == "" {
				t.Skipf("SKIPPED: %s is not set, so nothing says which arguments are right", program.variable)
			}
			_, pod := pod(t, program.manifest)
			args, files := elsewhere(t, pod.Containers[0], program.hostIP)
			mistakes := mistakesOf(t, binary, args, pod.Containers[0].Env, program.hostIP)
			for _, mistake := range mistakes {
				if !strings.Contains(mistake, "no such file or directory") {
					t.Errorf("%s", mistake)
				}
			}
			if !t.Failed() && len(mistakes) != files {
				t.Errorf("%d files are missing, and these are told:\n%s", files, strings.Join(mistakes, "\n"))
			}
		})
	}
}
