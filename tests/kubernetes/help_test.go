package kubernetes_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// unique is a word that no other test writes.
func unique(t *testing.T) string {
	t.Helper()
	return strings.ToLower(rand.Text())
}

// run feeds a command and gives what it printed.
func run(ctx context.Context, t *testing.T, cmd *exec.Cmd, stdin string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v (%v)\n%s%s", strings.Join(cmd.Args, " "), err, ctx.Err(), out.String(), errs.String())
	}
	return out.String()
}

// pipes connects a command's stdin and stdout to the test; its stderr is kept.
func pipes(t *testing.T, cmd *exec.Cmd) (io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &bytes.Buffer{}
	return stdin, bufio.NewScanner(out)
}
