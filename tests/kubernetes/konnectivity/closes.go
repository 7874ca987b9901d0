package main

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// closes counts the CLOSE_RSPs that the client was sent. What conn.Close()
// returns does not tell: it picks by chance between the answer and the end of
// the tunnel when both are there, and calls the latter an error.
type closes struct {
	mu       sync.Mutex
	answered int
	refused  []string
}

// intercept sees every message of every tunnel.
func (c *closes) intercept(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, desc, cc, method, opts...)
	return watched{stream, c}, err
}

type watched struct {
	grpc.ClientStream
	closes *closes
}

func (w watched) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	if packet, ok := m.(*client.Packet); ok && err == nil && packet.Type == client.PacketType_CLOSE_RSP {
		w.closes.mu.Lock()
		defer w.closes.mu.Unlock()
		w.closes.answered++
		if text := packet.GetCloseResponse().GetError(); text != "" {
			w.closes.refused = append(w.closes.refused, text)
		}
	}
	return err
}

// check fails unless each of the closed flows was answered, without an error.
func (c *closes) check(closed int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered != closed || len(c.refused) > 0 {
		return fmt.Errorf("%d flows were closed, %d CLOSE_RSPs came, with errors %q", closed, c.answered, c.refused)
	}
	return nil
}
