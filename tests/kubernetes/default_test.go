package kubernetes_test

import (
	"context"
	"testing"
	"time"

	"konduit/tests/kubernetes/internal/cluster"
)

// Without a flag of this project's, lanes carry flows. A single one may travel
// as packets where the machine is busy, so one on a lane is enough.
func TestDefaultsUseLanes(t *testing.T) {
	if *oracleFlag {
		t.Skip("upstream's programs have no lanes")
	}
	byDefault := func(c *cluster.Cell) bool { return c.Plan.Lanes == "default" }
	inCells(t, only(cells(t), byDefault), 60*time.Second, func(ctx context.Context, t *testing.T, c *cluster.Cell) {
		before := count(t, c).ServerPaths
		for range 10 {
			echoes(ctx, t, c)
			if count(t, c).ServerPaths.Since(before).OnLanes() > 0 {
				return
			}
		}
		t.Errorf("the server says %v carried the flows of ten commands, none of them a lane", count(t, c).ServerPaths.Since(before))
	})
}
