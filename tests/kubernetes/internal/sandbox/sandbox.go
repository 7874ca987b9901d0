// Package sandbox runs the test program inside namespaces of its own, so that
// whatever it starts or makes ends with it, even when it is killed.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

const inside = "KONDUIT_SANDBOX"

// Inside reports whether this process already runs in the sandbox.
func Inside() bool { return os.Getenv(inside) != "" }

// Rootless reports whether the sandbox had to be made without root: eBPF
// cannot be loaded there and only the lower engines run.
func Rootless() bool { return os.Getenv(inside) == "rootless" }

// Reenter runs this program again, with the same arguments, as the first
// process of new PID, mount and network namespaces (and of a user namespace
// when the caller is not root) and returns its exit code.
//
// The kernel kills every process of the PID namespace when its first one
// ends, and network namespaces end with their last process: nothing is left
// behind after a panic, a time-out or a SIGKILL.
func Reenter() (int, error) {
	// Pdeathsig follows the thread that forked.
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("finding this program's own file: %w", err)
	}
	var cmd *exec.Cmd
	for _, rootless := range []bool{false, true} {
		if os.Geteuid() != 0 && !rootless {
			continue
		}
		cmd = prepare(self, rootless)
		// Root in a container may lack the right; a user namespace may do.
		if err = cmd.Start(); !errors.Is(err, syscall.EPERM) {
			break
		}
	}
	if err != nil {
		return 1, fmt.Errorf("starting in namespaces of its own (run as root, or allow user namespaces): %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	return 1, fmt.Errorf("the test process ended with %s", cmd.ProcessState)
}

func prepare(self string, rootless bool) *exec.Cmd {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	mode := "root"
	if rootless {
		mode = "rootless"
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+mode)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	return cmd
}

// Prepare gives the sandbox its own /proc and an empty /run/netns. It touches
// only the mount namespace that Reenter made.
func Prepare() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc of the new PID namespace: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting an empty /run: %w", err)
	}
	return nil
}
