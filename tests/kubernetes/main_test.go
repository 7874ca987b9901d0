package kubernetes_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"

	"konduit/tests/kubernetes/internal/apiserver"
	"konduit/tests/kubernetes/internal/cluster"
	"konduit/tests/kubernetes/internal/kubelet"
	"konduit/tests/kubernetes/internal/proc"
	"konduit/tests/kubernetes/internal/sandbox"
)

func TestMain(m *testing.M) {
	if proc.Role() != "" {
		play(proc.Role())
	}
	flag.Parse()
	if !sandbox.Inside() {
		// Made out here, so that it goes even if the tests are killed.
		dir, err := os.MkdirTemp("", "kube-")
		check(err)
		check(os.Setenv(dirEnv, dir))
		buildClient(dir)
		code, err := sandbox.Reenter()
		_ = os.RemoveAll(dir)
		check(err)
		os.Exit(code)
	}
	check(sandbox.Prepare())
	if sandbox.Rootless() {
		fmt.Fprint(os.Stderr, "\n*** NOT ROOT: running in user namespaces. eBPF cannot be loaded here; only the lower engines are tested. ***\n\n")
	}
	code := m.Run()
	stopSites()
	os.Exit(code)
}

const (
	dirEnv    = "KONDUIT_TEST_DIR"
	clientEnv = "KONDUIT_KONNECTIVITY_CLIENT"
)

// buildClient builds the konnectivity client while there is a network: in the
// sandbox no module can be fetched. A failure is the client test's to report.
// Who runs this program without its sources names one that is built already.
func buildClient(dir string) {
	if os.Getenv(clientEnv) != "" {
		return
	}
	path := filepath.Join(dir, "konnectivity-client")
	build := exec.Command("go", "build", "-C", "konnectivity", "-o", path, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the konnectivity client: %v\n%s", err, out)
	}
	check(os.Setenv(clientEnv, path))
}

// play runs one of the stand-ins instead of the tests.
func play(role string) {
	switch role {
	case cluster.RoleKubectl:
		command := kubectl.NewDefaultKubectlCommand()
		if err := cli.RunNoErrOutput(command); err != nil {
			kubectlutil.CheckErr(err)
		}
	case cluster.RoleKubelet:
		var config kubelet.Config
		check(proc.RoleConfig(&config))
		check(kubelet.Run(config))
	case cluster.RoleAPIServer:
		var config apiserver.Config
		check(proc.RoleConfig(&config))
		check(apiserver.Run(config))
	default:
		check(fmt.Errorf("unknown role %q", role))
	}
	os.Exit(0)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
