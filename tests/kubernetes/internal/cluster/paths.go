package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Paths counts flows, living and ended, by what carries them between server
// and agent, as one of this project's binaries reports it.
type Paths map[string]int64

// Path is what has to carry every flow of the cell; empty where it is for the
// programs to choose.
func (p Plan) Path() string {
	switch {
	case p.Lanes == "off" || !p.Binaries.ServerIsOurs || !p.Binaries.AgentIsOurs:
		return "mux"
	case p.Lanes == "default":
		return ""
	default:
		return "lane-" + p.Lanes
	}
}

func (m Metrics) paths() Paths {
	paths := Paths{}
	for series, value := range m {
		name, labels, _ := strings.Cut(series, "{")
		if name == "konduit_flows" || name == "konduit_flows_total" {
			paths[label(labels, "path")] += int64(value)
		}
	}
	return paths
}

// Since gives what was added after an earlier count.
func (p Paths) Since(before Paths) Paths {
	added := Paths{}
	for path, n := range p {
		if n -= before[path]; n != 0 {
			added[path] = n
		}
	}
	return added
}

// Are reports whether they are n flows, all of one path; of any where that is
// empty.
func (p Paths) Are(path string, n int64) bool {
	var sum int64
	for other, flows := range p {
		if path != "" && other != path && flows != 0 {
			return false
		}
		sum += flows
	}
	return sum == n
}

// OnLanes is how many of them were carried by lanes, of whatever kind.
func (p Paths) OnLanes() (sum int64) {
	for path, flows := range p {
		if strings.HasPrefix(path, "lane-") {
			sum += flows
		}
	}
	return sum
}

// Carried is how many bytes one direction ("to_target" or "to_client") moved,
// by engine.
func (m Metrics) Carried(direction string) map[string]int64 {
	bytes := map[string]int64{}
	for series, value := range m {
		name, labels, _ := strings.Cut(series, "{")
		if name == "konduit_bytes_total" && label(labels, "direction") == direction && value > 0 {
			bytes[label(labels, "engine")] += int64(value)
		}
	}
	return bytes
}

// Shares writes byte counts as "splice 900 MB, copy 1 MB".
func Shares(bytes map[string]int64) string {
	var parts []string
	for _, engine := range slices.Sorted(maps.Keys(bytes)) {
		parts = append(parts, fmt.Sprintf("%s %.1f MB", engine, float64(bytes[engine])/1e6))
	}
	return strings.Join(parts, ", ")
}

func label(labels, name string) string {
	_, rest, _ := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}
