package apiserver

import (
	"encoding/json"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/version"

	"konduit/tests/kubernetes/internal/kubelet"
)

// The one pod, node and service of the stand-in cluster.
const (
	Namespace = "default"
	PodName   = "web"
	NodeName  = "node-1"
	Service   = "web"
)

var labels = map[string]string{"app": "web"}

func (s *cell) pod() *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: PodName, Namespace: Namespace, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: NodeName},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: s.config.PodIP, HostIP: s.config.NodeIP,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for i, name := range kubelet.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
			Name: name, Image: "stand-in", Stdin: true, TTY: i == 1,
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: kubelet.PodHTTPPort}},
		})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		})
	}
	return pod
}

func (s *cell) service() *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{Kind: "Service", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: Service, Namespace: Namespace},
		Spec: corev1.ServiceSpec{
			Selector: labels,
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(kubelet.PodHTTPPort)}},
		},
	}
}

// serveObjects answers what kubectl asks before it opens a stream.
func (s *cell) serveObjects(mux *http.ServeMux) {
	object := func(path string, make func() any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, make()) })
	}
	object("/version", func() any { return version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.2"} })
	object("/api", func() any {
		return metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	})
	object("/apis", func() any {
		return metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	})
	object("/api/v1", func() any {
		get := metav1.Verbs{"get", "list"}
		return metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: "v1",
			APIResources: []metav1.APIResource{
				{Name: "pods", SingularName: "pod", Namespaced: true, Kind: "Pod", Verbs: get, ShortNames: []string{"po"}},
				{Name: "services", SingularName: "service", Namespaced: true, Kind: "Service", Verbs: get, ShortNames: []string{"svc"}},
				{Name: "nodes", SingularName: "node", Kind: "Node", Verbs: get, ShortNames: []string{"no"}},
			},
		}
	})
	inNamespace := "/api/v1/namespaces/" + Namespace
	object(inNamespace+"/pods/"+PodName, func() any { return s.pod() })
	object(inNamespace+"/services/"+Service, func() any { return s.service() })
	object(inNamespace+"/pods", func() any {
		return corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{*s.pod()}}
	})
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}
