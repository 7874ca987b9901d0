package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

type scenario struct {
	dial       dialer
	echo, dark string
	closes     *closes
}

// run plays one case and says on stdout how many dials gave a connection, each
// of which it closes.
func (s scenario) run(ctx context.Context, name string) error {
	dials, err := 0, error(nil)
	switch name {
	case "basic":
		for range 3 {
			err = errors.Join(err, s.exchange(ctx, 1000))
			dials++
		}
	case "large":
		dials, err = 1, s.exchange(ctx, 64<<20)
	case "concurrent":
		dials, err = 100, s.together(ctx, 100, 200_000)
	case "cancelled":
		dials, err = s.cancelled(ctx)
	default:
		err = fmt.Errorf("no case %q", name)
	}
	fmt.Println(dials)
	if err != nil {
		return err
	}
	return s.closes.check(dials)
}

// exchange sends n bytes to the echo server while it reads them back.
func (s scenario) exchange(ctx context.Context, n int) error {
	conn, err := s.dial(ctx, s.echo)
	if err != nil {
		return fmt.Errorf("dialing: %w", err)
	}
	sent := make([]byte, n)
	_, _ = rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		// The client puts every Write in one message, and messages end at 4 MiB.
		for rest := sent; len(rest) > 0; {
			k := min(len(rest), 1<<20)
			if _, err := conn.Write(rest[:k]); err != nil {
				wrote <- err
				return
			}
			rest = rest[k:]
		}
		wrote <- nil
	}()
	got := make([]byte, n)
	read, err := io.ReadFull(conn, got)
	if err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", read, n, err)
	}
	if err := <-wrote; err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes came back changed", n)
	}
	_ = conn.Close()
	return nil
}

func (s scenario) together(ctx context.Context, flows, n int) error {
	errs := make([]error, flows)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = s.exchange(ctx, n+i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// cancelled gives up 20 dials that cannot succeed, while a flow is open: the
// flow lives on, and the next dial works as before.
func (s scenario) cancelled(ctx context.Context) (int, error) {
	neighbour, err := s.dial(ctx, s.echo)
	if err != nil {
		return 0, fmt.Errorf("dialing the neighbour: %w", err)
	}
	defer neighbour.Close()
	var all sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		all.Go(func() {
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			if conn, err := s.dial(short, s.dark); err == nil {
				conn.Close()
				errs[i] = errors.New("a dial into the dark succeeded")
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return 1, err
	}
	word := []byte("still here")
	if _, err := neighbour.Write(word); err != nil {
		return 1, fmt.Errorf("the neighbour after cancelled dials: %w", err)
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(neighbour, got); err != nil || !bytes.Equal(got, word) {
		return 1, fmt.Errorf("the neighbour after cancelled dials: got %q: %w", got, err)
	}
	return 2, s.exchange(ctx, 1000)
}
