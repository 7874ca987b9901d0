package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// runtime is the container runtime behind the streaming server: a "container"
// is a process on this machine, a "pod" an address.
type runtime struct {
	containers map[string]*container
	podIP      string
}

func (r *runtime) Exec(ctx context.Context, id string, argv []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if _, ok := r.containers[id]; !ok {
		return fmt.Errorf("container %q not found", id)
	}
	if len(argv) == 0 {
		return errors.New("no command to run")
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if tty {
		return exitError(runOnTerminal(cmd, in, out, resize))
	}
	return exitError(runOnPipes(cmd, in, out, errs))
}

func runOnPipes(cmd *exec.Cmd, in io.Reader, out, errs io.Writer) error {
	if in != nil {
		// Not cmd.Stdin: Wait would wait for the client's end of file too.
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
	}
	if out != nil {
		cmd.Stdout = out
	}
	if errs != nil {
		cmd.Stderr = errs
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Wait()
}

func runOnTerminal(cmd *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	terminal, err := pty.Start(cmd)
	if err != nil {
		return err
	}
	defer terminal.Close()
	go func() {
		for size := range resize {
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()
	if in != nil {
		go func() { _, _ = io.Copy(terminal, in) }()
	}
	if out == nil {
		out = io.Discard
	}
	// Ends with EIO when the last process leaves the terminal.
	_, _ = io.Copy(out, terminal)
	return cmd.Wait()
}

// exitError turns a process's exit code into the form that the streaming
// server reports to the client as an exit code.
func exitError(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

func (r *runtime) Attach(ctx context.Context, id string, in io.Reader, out, _ io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, ok := r.containers[id]
	if !ok {
		return fmt.Errorf("container %q not found", id)
	}
	if c.tty != tty {
		return fmt.Errorf("container %q has tty=%v", id, c.tty)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if resize != nil {
		go func() {
			for size := range resize {
				c.size(size)
			}
		}()
	}
	at := c.log.size()
	if in != nil {
		go func() {
			// The container outlives the session: its stdin stays open.
			_, _ = io.Copy(c.stdin, in)
			cancel()
		}()
	}
	if out == nil {
		out = discard{}
	}
	err := c.follow(ctx, at, true, out, func() {})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (r *runtime) PortForward(ctx context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(r.podIP, strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("connecting to port %d of the pod: %w", port, err)
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
