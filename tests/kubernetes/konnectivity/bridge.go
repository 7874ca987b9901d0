package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// serve dials for whoever sends a CONNECT to this Unix socket, until it is
// killed: a test in any language can be the client's user.
func serve(ctx context.Context, socket string, dial dialer) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	for {
		user, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer user.Close()
			_ = carry(ctx, user, dial)
		}()
	}
}

// carry cancels the dial when its user leaves, and ends the flow when either
// side does.
func carry(ctx context.Context, user net.Conn, dial dialer) error {
	in := bufio.NewReader(user)
	request, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if _, err := in.Peek(1); err == io.EOF {
			cancel()
		}
	}()
	conn, err := dial(ctx, request.RequestURI)
	_ = user.SetReadDeadline(time.Now())
	<-watched
	_ = user.SetReadDeadline(time.Time{})
	if err != nil {
		_, err = fmt.Fprintf(user, "HTTP/1.1 502 Bad Gateway\r\n\r\n%v", err)
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprint(user, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		return err
	}
	go func() {
		defer conn.Close()
		_, _ = io.Copy(conn, in)
	}()
	_, err = io.Copy(user, conn)
	return err
}
