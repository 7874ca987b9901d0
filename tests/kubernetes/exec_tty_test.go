package kubernetes_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"konduit/tests/kubernetes/internal/cluster"
)

// A shell on a terminal: its size arrives at once and follows every change,
// and what is typed is answered.
func TestExecTTY(t *testing.T) {
	inEveryCell(t, 30*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		eachTransport(t, c, func(t *testing.T, env string) {
			cmd := c.Kubectl(ctx, "exec", "-it", "web", "-c", "web", "--", "sh")
			cmd.Env = append(cmd.Env, env, "TERM=dumb", "PS1=$ ")
			screen := onTerminal(t, cmd, 33, 101)
			screen.type_("until [ \"$(stty size)\" = '33 101' ]; do sleep 0.02; done; echo size-is-\"set\"\n")
			screen.await("size-is-set")
			screen.resize(40, 120)
			screen.type_("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.02; done; echo size-has-\"changed\"\n")
			screen.await("size-has-changed")
			screen.type_("exit 0\n")
			if err := cmd.Wait(); err != nil {
				t.Errorf("the shell ended with %v", err)
			}
		})
	})
}

// A container with a terminal of its own.
func TestAttachTTY(t *testing.T) {
	inEveryCell(t, 60*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		eachTransport(t, c, func(t *testing.T, env string) {
			cmd := c.Kubectl(ctx, "attach", "-it", "web", "-c", "term")
			cmd.Env = append(cmd.Env, env)
			screen := onTerminal(t, cmd, 24, 80)
			screen.await("pressing enter")
			word := unique(t)
			screen.type_(word + "\n")
			screen.await("term heard: " + word)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	})
}

type screen struct {
	t        *testing.T
	terminal *os.File
	lines    *bufio.Reader
	seen     strings.Builder
}

// onTerminal starts a command as the leader of a session on a new terminal.
func onTerminal(t *testing.T, cmd *exec.Cmd, rows, columns uint16) *screen {
	t.Helper()
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return &screen{t: t, terminal: terminal, lines: bufio.NewReader(terminal)}
}

func (s *screen) type_(text string) {
	s.t.Helper()
	if _, err := s.terminal.WriteString(text); err != nil {
		s.t.Fatalf("typing: %v", err)
	}
}

func (s *screen) resize(rows, columns uint16) {
	s.t.Helper()
	if err := pty.Setsize(s.terminal, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
		s.t.Fatal(err)
	}
}

// await reads on until the text was on the screen. The process's deadline
// ends the wait: without it the terminal has no writer.
func (s *screen) await(text string) {
	s.t.Helper()
	for !strings.Contains(s.seen.String(), text) {
		b, err := s.lines.ReadByte()
		if err != nil {
			s.t.Fatalf("%q never came (%v), the screen shows:\n%s", text, err, s.seen.String())
		}
		s.seen.WriteByte(b)
	}
	s.seen.Reset()
}
