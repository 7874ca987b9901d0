// Package proc starts the processes of a test, keeps the end of what they say
// and ends them.
package proc

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const kept = 400 // lines of output remembered per process

// Process is a started program.
type Process struct {
	Name string
	cmd  *exec.Cmd
	said chan string // the first line on stdout
	done chan struct{}

	mu    sync.Mutex
	lines []string
	err   error
}

// Start runs cmd and collects what it writes.
func Start(name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, cmd: cmd, said: make(chan string, 1), done: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.collect(out, true) })
	readers.Go(func() { p.collect(errs, false) })
	go func() {
		readers.Wait()
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *Process) collect(r io.Reader, first bool) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if first {
			p.said <- lines.Text()
			first = false
		}
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		if len(p.lines) > kept {
			p.lines = p.lines[len(p.lines)-kept:]
		}
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r)
}

// AwaitLine waits until the process has printed a line on stdout.
func (p *Process) AwaitLine(limit time.Duration) error {
	select {
	case <-p.said:
		return nil
	case <-p.done:
		return fmt.Errorf("%s ended at once: %v\n%s", p.Name, p.err, p.Log())
	case <-time.After(limit):
		return fmt.Errorf("%s said nothing within %s\n%s", p.Name, limit, p.Log())
	}
}

// Done is closed when the process has ended; it never is for one that was
// not started.
func (p *Process) Done() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.done
}

// Log is the end of the process's output.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := "running"
	select {
	case <-p.done:
		state = fmt.Sprintf("ended: %v", p.err)
	default:
	}
	return fmt.Sprintf("--- %s (pid %d, %s)\n%s\n", p.Name, p.cmd.Process.Pid, state, strings.Join(p.lines, "\n"))
}

// Stop kills the process and waits until it is gone.
func (p *Process) Stop() {
	if p == nil {
		return
	}
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}
