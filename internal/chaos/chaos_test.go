//go:build chaos

package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

var (
	duration = flag.Duration("duration", 30*time.Second, "how long things break")
	seed     = flag.Uint64("seed", 0, "which faults; 0: any")
	minimum  = flag.Float64("minimum", 100, "messages a second before the first fault, or the run is void")
	load     = flag.Float64("load", 900, "messages a second that are published at most")
	cluster  = flag.Bool("cluster", false, "on a cluster of three nodes")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *cluster {
		rabbittest.ClusterMain(m)
	}
	rabbittest.Main(m)
}

// build builds a program of the module.
func build(t *testing.T, dir, name, pkg, tags string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-tags", tags, "-o", path, pkg)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return path
}

// folder is that of a run, which a failure leaves behind.
func folder(t *testing.T, seed uint64) string {
	t.Helper()
	dir, err := os.MkdirTemp("", fmt.Sprintf("chaos-%d-", seed))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	return dir
}

// TestChaos is one run of the program as it is.
func TestChaos(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64N(1_000_000) + 1
	}
	dir := folder(t, s)
	replay := fmt.Sprintf("make chaos DURATION=%v SEED=%d", *duration, s)
	if *cluster {
		replay += " CLUSTER=1"
	}
	if version := os.Getenv("RABBITMQ_VERSION"); version != "" {
		replay += " BROKER=" + version
	}
	t.Logf("%s; ledgers and logs are in %s", replay, dir)
	checker := build(t, dir, "checker", "./internal/checker", "")
	m := prepare(t, dir, build(t, dir, "warren", ".", ""), s, *load)
	m.run(*duration)
	status, verdict := m.check(checker, *minimum)
	t.Logf("RabbitMQ %s, seed %d, %v:\n%s", m.vhost.Node.Version(), s, *duration, verdict)
	if status != 0 {
		t.Errorf("the checker: exit status %d; the ledgers and logs are in %s, and %s makes the same faults", status, dir, replay)
	}
}

// TestBrokenBuilds has the checker catch three builds that are broken on purpose; package
// broken has them.
func TestBrokenBuilds(t *testing.T) {
	for tag, want := range map[string]string{
		"broken_acks":     "VIOLATION lost: ",
		"broken_confirms": "VIOLATION lost: ",
		"broken_memory":   "VIOLATION repeated without a cause: ",
	} {
		t.Run(tag, func(t *testing.T) {
			dir := folder(t, 1)
			checker := build(t, dir, "checker", "./internal/checker", "")
			m := prepare(t, dir, build(t, dir, "warren", ".", tag), 1, *load)
			m.run(*duration)
			status, verdict := m.check(checker, 0)
			if status != 1 || !strings.Contains(verdict, want) {
				t.Errorf("got exit status %d, want 1 and %q:\n%s", status, want, verdict)
			}
			t.Logf("%.3000s", verdict)
		})
	}
}
