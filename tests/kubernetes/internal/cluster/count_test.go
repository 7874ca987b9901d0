package cluster

import (
	"maps"
	"strings"
	"testing"
)

const scraped = `# HELP konduit_flows Flows that live, by path.
# TYPE konduit_flows gauge
konduit_flows{path="lane-raw"} 2
konduit_flows{path="mux"} 0
konduit_flows_total{outcome="clean",path="lane-raw"} 5
konduit_flows_total{outcome="aborted",path="lane-raw"} 1
konduit_bytes_total{direction="to_target",engine="splice",path="lane-raw"} 7e+06
konduit_bytes_total{direction="to_client",engine="copy",path="lane-raw"} 10
dials_count{path="a"} 3
dials_count{path="b"} 4
dials_counted 100
plain 1.5
`

func TestScrape(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(scraped))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Sum("dials_count"); got != 7 {
		t.Errorf("sum over all labels: %v", got)
	}
	if got := m.Sum("dials_count", `path="b"`); got != 4 {
		t.Errorf("sum over one label: %v", got)
	}
	if got := m.Sum("plain"); got != 1.5 {
		t.Errorf("series without labels: %v", got)
	}
	if got := m.Carried("to_target"); !maps.Equal(got, map[string]int64{"splice": 7e6}) {
		t.Errorf("bytes to the target: %v", got)
	}
	if got := m.paths(); got["lane-raw"] != 8 || got["mux"] != 0 {
		t.Errorf("flows by path: %v", got)
	}
}

func TestFlowsTakeTheirPath(t *testing.T) {
	before := Paths{"lane-raw": 3, "mux": 1}
	for _, c := range []struct {
		now  Paths
		path string
		n    int64
		want bool
	}{
		{Paths{"lane-raw": 5, "mux": 1}, "lane-raw", 2, true},
		{Paths{"lane-raw": 5, "mux": 1}, "lane-raw", 3, false},
		{Paths{"lane-raw": 5, "mux": 2}, "lane-raw", 2, false},
		{Paths{"lane-raw": 3, "mux": 3}, "lane-raw", 2, false},
		{Paths{"lane-raw": 3, "mux": 1}, "lane-raw", 0, true},
		{Paths{"lane-raw": 4, "mux": 2}, "", 2, true},
		{Paths{"lane-raw": 4, "mux": 2}, "", 3, false},
	} {
		if got := c.now.Since(before).Are(c.path, c.n); got != c.want {
			t.Errorf("%v after %v, %d flows by %q: %v", c.now, before, c.n, c.path, got)
		}
	}
}
