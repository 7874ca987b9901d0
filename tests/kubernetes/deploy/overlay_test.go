package deploy_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// pod is the one pod, or pod template, that `kubectl apply -k` of a directory makes.
func pod(t *testing.T, directory string) (map[string]string, corev1.PodSpec) {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, directory))
	if err != nil {
		t.Fatalf("%s: %v", directory, err)
	}
	decoder := serializer.NewCodecFactory(scheme(t), serializer.EnableStrict).UniversalDeserializer()
	for _, resource := range made.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatalf("%s: %v", directory, err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", directory, err, text)
		}
		switch object := object.(type) {
		case *corev1.Pod:
			return object.Annotations, object.Spec
		case *appsv1.DaemonSet:
			return object.Spec.Template.Annotations, object.Spec.Template.Spec
		}
	}
	t.Fatalf("%s: makes neither a pod nor a DaemonSet", directory)
	return nil, corev1.PodSpec{}
}

func TestOverlaysAddRawLanesAndNothingElse(t *testing.T) {
	for _, end := range []string{"server", "agent"} {
		_, plain := pod(t, end)
		_, raw := pod(t, "overlays/raw-lanes/"+end)
		want := append(slices.Clone(plain.Containers[0].Args), "--lane-security=raw")
		if got := raw.Containers[0].Args; !slices.Equal(got, want) {
			t.Errorf("%s: arguments %q, want %q", end, got, want)
		}
		raw.Containers[0].Args = plain.Containers[0].Args
		if !reflect.DeepEqual(raw, plain) {
			t.Errorf("%s: the overlay changes more than the arguments", end)
		}
	}
}

// What a node's first address is called, which the kubelet puts in HOST_IP, and nothing else.
func TestTheIPv6OverlayNamesTheAddressForWhatItIs(t *testing.T) {
	_, plain := pod(t, "agent")
	_, six := pod(t, "overlays/ipv6/agent")
	var want []string
	for _, arg := range plain.Containers[0].Args {
		want = append(want, strings.Replace(arg, "=ipv4=$(HOST_IP)", "=ipv6=$(HOST_IP)", 1))
	}
	if got := six.Containers[0].Args; !slices.Equal(got, want) || !slices.Contains(got, "--agent-identifiers=ipv6=$(HOST_IP)") {
		t.Errorf("arguments %q, want %q", got, want)
	}
	six.Containers[0].Args = plain.Containers[0].Args
	if !reflect.DeepEqual(six, plain) {
		t.Error("the overlay changes more than the arguments")
	}
}

// Prometheus is sent to where the metrics are: the health port, which is also what the probes ask.
func TestScrapesAndProbesGoToTheHealthPort(t *testing.T) {
	for end, flag := range map[string]string{"server": "--health-port=", "agent": "--health-server-port="} {
		annotations, spec := pod(t, end)
		container := spec.Containers[0]
		port := annotations["prometheus.io/port"]
		if annotations["prometheus.io/scrape"] != "true" || annotations["prometheus.io/path"] != "/metrics" {
			t.Errorf("%s: not scraped at /metrics: %v", end, annotations)
		}
		if !slices.Contains(container.Args, flag+port) {
			t.Errorf("%s: scraped at port %s, which is not the one of %s", end, port, strings.TrimSuffix(flag, "="))
		}
		named := func(have corev1.ContainerPort) bool { return fmt.Sprint(have.ContainerPort) == port }
		if !slices.ContainsFunc(container.Ports, named) {
			t.Errorf("%s: port %s is none of the container's", end, port)
		}
		for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
			if probe != nil && probe.HTTPGet.Port.String() != port {
				t.Errorf("%s: a probe asks port %s, not %s", end, probe.HTTPGet.Port.String(), port)
			}
		}
	}
}
