package kubernetes_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

const (
	large  = 1 << 30
	medium = 32 << 20
)

// cpSize is 1 GiB in one cell per kind of lane (in every cell with -full).
func cpSize(p cluster.Plan) int64 {
	if *fullFlag || p.Pairing == "" && p.Family == "ipv4" && p.Frontend == "http-connect-uds" {
		return large
	}
	return medium
}

// A file goes into the pod and another one comes out of it, unchanged.
func TestCopy(t *testing.T) {
	sources := map[int64]source{}
	inEveryCell(t, 4*time.Minute, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		size := cpSize(c.Plan)
		if sources[size].path == "" {
			sources[size] = makeSource(t, size)
		}
		from := sources[size]
		inPod, back := filepath.Join(world.dir, "in-pod"), filepath.Join(world.dir, "back")
		defer os.Remove(inPod)
		defer os.Remove(back)

		before := carried(t, c)
		begin := time.Now()
		run(ctx, t, c.Kubectl(ctx, "cp", "-c", "web", from.path, "web:"+inPod), "")
		t.Logf("%s of %d MiB into the pod", rate(size, begin), size>>20)
		same(t, "in the pod", inPod, from)

		begin = time.Now()
		run(ctx, t, c.Kubectl(ctx, "cp", "-c", "web", "web:"+inPod, back), "")
		t.Logf("%s of %d MiB out of the pod", rate(size, begin), size>>20)
		same(t, "copied back", back, from)
		exactlyOnce(t, c, size, before, carried(t, c))
	})
}

// carried is what our binaries of the cell say they moved.
func carried(t *testing.T, c *cluster.Cell) map[string]cluster.Metrics {
	t.Helper()
	said := map[string]cluster.Metrics{}
	for name, scrape := range map[string]func() (cluster.Metrics, error){"server": c.ServerMetrics, "agent": c.AgentMetrics} {
		metrics, err := scrape()
		if err != nil {
			t.Fatal(err)
		}
		said[name] = metrics
	}
	return said
}

// exactlyOnce holds the bytes that were counted against the file that went
// both ways: TLS and the streams' frames add a little, counting twice a lot.
func exactlyOnce(t *testing.T, c *cluster.Cell, size int64, before, after map[string]cluster.Metrics) {
	t.Helper()
	ours := map[string]bool{"server": c.Plan.Binaries.ServerIsOurs, "agent": c.Plan.Binaries.AgentIsOurs}
	for name := range after {
		if !ours[name] {
			continue
		}
		for _, direction := range []string{"to_target", "to_client"} {
			moved, total := after[name].Carried(direction), int64(0)
			for engine := range moved {
				moved[engine] -= before[name].Carried(direction)[engine]
				total += moved[engine]
			}
			t.Logf("%s, %s: %s", name, direction, cluster.Shares(moved))
			if total < size || total > size+size/8 {
				t.Errorf("the %s counted %d bytes %s, the file has %d", name, total, direction, size)
			}
			if inKernel(c.Plan, name, direction, after[name]) && moved["copy"] > total/2 {
				t.Errorf("the %s copied most of the bytes %s though splice(2) was proven: %s", name, direction, cluster.Shares(moved))
			}
		}
	}
}

type source struct {
	path string
	size int64
	sum  [sha256.Size]byte
}

// makeSource writes a file that no block of repeats.
func makeSource(t *testing.T, size int64) source {
	t.Helper()
	s := source{path: filepath.Join(world.dir, fmt.Sprintf("source-%d", size)), size: size}
	file, err := os.Create(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sum := sha256.New()
	random := rand.NewChaCha8([32]byte{byte(size >> 20)})
	if _, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(random, size)); err != nil {
		t.Fatal(err)
	}
	s.sum = [sha256.Size]byte(sum.Sum(nil))
	return s
}

func same(t *testing.T, where, path string, want source) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		t.Fatal(err)
	}
	if got := [sha256.Size]byte(sum.Sum(nil)); size != want.size || got != want.sum {
		t.Fatalf("the file %s has %d bytes and sum %x, not %d and %x", where, size, got, want.size, want.sum)
	}
}

func rate(size int64, begin time.Time) string {
	return fmt.Sprintf("%.0f MB/s", float64(size)/1e6/time.Since(begin).Seconds())
}

// inKernel reports whether a program takes the bytes of a direction from one
// TCP socket to another plain one in this cell, and has shown at its start
// that the kernel can. What comes from a Unix socket is copied by choice.
func inKernel(p cluster.Plan, program, direction string, metrics cluster.Metrics) bool {
	plain := p.Path() == "lane-raw" &&
		(program == "agent" || p.Frontend == "http-connect-uds" && direction == "to_client")
	return plain && metrics.Sum("konduit_engine_proven", `engine="splice"`) == 1
}
