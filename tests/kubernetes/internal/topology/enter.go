package topology

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// In runs f on a thread that is inside the namespace. Sockets that f makes on
// this goroutine belong to that namespace for good.
func In(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, so no other
		// goroutine can find itself in the namespace.
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("opening namespace %s: %w", ns, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering namespace %s: %w", ns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Dial connects to a literal address from inside a namespace.
func Dial(ctx context.Context, ns, addr string) (net.Conn, error) {
	var conn net.Conn
	err := In(ns, func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", addr)
		return err
	})
	return conn, err
}
