package kubelet

import (
	"context"
	"fmt"
	"io"
	"os/exec"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// container is a running process whose output is kept as its log.
type container struct {
	name  string
	tty   bool
	stdin io.WriteCloser
	log   *journal
	size  func(remotecommand.TerminalSize)
}

// startContainer runs a shell that answers every line it reads, so that a
// test can see what attach delivered and what logs recorded.
func startContainer(name string, tty bool) (*container, error) {
	script := fmt.Sprintf(`echo "%s is up"; while IFS= read -r line; do echo "%s heard: $line"; done`, name, name)
	cmd := exec.Command("sh", "-c", script)
	c := &container{name: name, tty: tty, log: newJournal(), size: func(remotecommand.TerminalSize) {}}
	if tty {
		terminal, err := pty.Start(cmd)
		if err != nil {
			return nil, fmt.Errorf("starting container %s on a terminal: %w", name, err)
		}
		c.stdin = terminal
		c.size = func(s remotecommand.TerminalSize) {
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: s.Height, Cols: s.Width})
		}
		go func() {
			_, _ = io.Copy(c.log, terminal)
			_ = cmd.Wait()
			c.log.end()
		}()
		return c, nil
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	cmd.Stdout, cmd.Stderr = c.log, c.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting container %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait()
		c.log.end()
	}()
	return c, nil
}

// follow copies the log from a position on until the container or ctx ends.
func (c *container) follow(ctx context.Context, at int, wait bool, w io.Writer, flush func()) error {
	for {
		more := c.log.next(ctx, at, wait)
		if len(more) == 0 {
			return ctx.Err()
		}
		if _, err := w.Write(more); err != nil {
			return err
		}
		flush()
		at += len(more)
	}
}
