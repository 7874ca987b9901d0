// Command konnectivity drives upstream's Go client against a gRPC frontend on
// a Unix socket. It is a module of its own because the reusable tunnel needs a
// newer client than the one the API server's egress selector is built with.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/pkg/client"
)

// dialer opens one connection through the proxy.
type dialer func(ctx context.Context, addr string) (net.Conn, error)

func main() {
	socket := flag.String("socket", "", "Unix socket of the frontend")
	echo := flag.String("echo", "", "address of an echo server behind the agent")
	dark := flag.String("dark", "", "address behind the agent that never answers")
	kind := flag.String("tunnel", "single", "single or reusable")
	name := flag.String("case", "basic", "what to do")
	authority := flag.String("authority", "", "what to call the server instead of its percent-encoded path")
	listen := flag.String("listen", "", "Unix socket to take CONNECTs at, instead of a case")
	limit := flag.Duration("limit", 30*time.Second, "when to give up")
	flag.Parse()
	ctx := context.Background()
	if *listen == "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}
	answers := &closes{}
	dial, err := open(ctx, *kind, *socket, *authority, grpc.WithStreamInterceptor(answers.intercept))
	switch {
	case err != nil:
	case *listen != "":
		err = serve(ctx, *listen, dial)
	default:
		err = scenario{dial: dial, echo: *echo, dark: *dark, closes: answers}.run(ctx, *name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(ctx context.Context, kind, socket, authority string, options ...grpc.DialOption) (dialer, error) {
	options = append(options,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if authority != "" {
		options = append(options, grpc.WithAuthority(authority))
	}
	if kind == "reusable" {
		tunnel, err := client.CreateGRPCTunnel(ctx, socket, options...)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, addr string) (net.Conn, error) {
			return tunnel.DialContext(ctx, "tcp", addr)
		}, nil
	}
	return func(dialCtx context.Context, addr string) (net.Conn, error) {
		tunnel, err := client.CreateSingleUseGrpcTunnelWithContext(dialCtx, ctx, socket, options...)
		if err != nil {
			return nil, err
		}
		return tunnel.DialContext(dialCtx, "tcp", addr)
	}, nil
}
