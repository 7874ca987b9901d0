package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func newReader(text []byte) *bufio.Reader {
	return bufio.NewReader(bytes.NewReader(text))
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// elsewhere is what a container's program gets from the kubelet, with every
// file in a directory where there is none, and how many of them it must have.
func elsewhere(t *testing.T, container corev1.Container, hostIP string) (args []string, files int) {
	t.Helper()
	empty := t.TempDir()
	for _, arg := range container.Args {
		flag, path, _ := strings.Cut(arg, "=/")
		if path != "" {
			arg = flag + "=" + filepath.Join(empty, path)
		}
		switch filepath.Ext(path) {
		case ".crt", ".key":
			files++
		}
		args = append(args, strings.ReplaceAll(arg, "$(HOST_IP)", hostIP))
	}
	return args, files
}

// mistakesOf runs a program that has to refuse its arguments. Each variable of env has the same value.
func mistakesOf(t *testing.T, binary string, args []string, env []corev1.EnvVar, value string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	command.Env = []string{}
	for _, variable := range env {
		command.Env = append(command.Env, variable.Name+"="+value)
	}
	said, err := command.CombinedOutput()
	var refused *exec.ExitError
	if !errors.As(err, &refused) || refused.ExitCode() != 1 {
		t.Fatalf("%s did not refuse %q: %v\n%s", binary, args, err, said)
	}
	var mistakes []string
	for line := range strings.Lines(string(said)) {
		if mistake, indented := strings.CutPrefix(line, "  "); indented {
			mistakes = append(mistakes, strings.TrimSpace(mistake))
		}
	}
	if len(mistakes) == 0 {
		t.Fatalf("%s with %q told no list of mistakes:\n%s", binary, args, said)
	}
	return mistakes
}
