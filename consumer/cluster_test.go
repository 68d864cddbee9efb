//go:build cluster

package consumer

import (
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) { rabbittest.ClusterMain(m) }

func TestClusterElectsAnotherLeader(t *testing.T) {
	c := rabbittest.StartCluster(t, 3)
	v := c.NewVhost(t)
	v.Declare(t, "q", nil)
	c.MoveLeader(t, v.Name, "q", c.Nodes[2])
	c.Nodes[2].Kill()
	began := time.Now()
	rabbittest.Eventually(t, time.Minute, func() bool {
		l := c.Leader(t, v.Name, "q")
		return l != nil && l != c.Nodes[2]
	}, "queue q is led by another node")
	t.Logf("led by another node after %v", time.Since(began).Round(time.Millisecond))
}
