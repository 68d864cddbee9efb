package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestAFleetIsMeasured(t *testing.T) {
	warren := filepath.Join(t.TempDir(), "warren")
	build := exec.Command("go", "build", "-o", warren, "github.com/warrenmq/warren")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	const window = 12 * time.Second // each queue is looked at twice
	measure := func() cost {
		c, err := fleet{daemons: 2, queues: 20, schedules: 1}.measure(warren, 0, window)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	opened := func(c cost) float64 { return c.opened * window.Seconds() }
	c := measure()
	for tries := 1; opened(c) > 40 && tries < 3; tries++ { // a busy machine may hold a look up for so long that others open channels
		c = measure()
	}
	if c.connections < 2 || c.channels < 40 {
		t.Errorf("connections and channels: got %d and %d, want at least one for each daemon and each of its queues", c.connections, c.channels)
	}
	if c.brokerMemory < 10<<20 || c.daemonMemory < 1<<20 {
		t.Errorf("memory of the broker and of a daemon: got %d and %d bytes, want some MiB", c.brokerMemory, c.daemonMemory)
	}
	if opened(c) > 40 {
		t.Errorf("%.0f channels were opened to look at 40 queues twice, want one a daemon", opened(c))
	}
	if c.packets < 0 || c.opened < 0 || c.start <= 0 {
		t.Errorf("cost: got %+v, want nothing below zero", c)
	}
}

func TestADaemonThatDoesNotStartIsSaid(t *testing.T) {
	d, err := start("/bin/false", t.TempDir(), nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.await(); err == nil {
		t.Error("wait for what has ended: got nil, want an error")
	}
	if err := d.stop(); err == nil {
		t.Error("stop what has failed: got nil, want an error")
	}
}

func TestProcessorTimeIsThatOfTheKernel(t *testing.T) {
	before, err := used(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; { // until the kernel has noticed
		now, err := used(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now.cpu > before.cpu {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("processor time after a busy minute: got %v, want more than %v", now.cpu, before.cpu)
		}
		runtime.Gosched()
	}
}

func TestFleetsThatAreNoneAreRefused(t *testing.T) {
	for _, fleets := range [][]string{nil, {"30"}, {"0x1x1"}, {"1x1x-1"}} {
		if err := run("/bin/false", 0, 0, fleets); err == nil {
			t.Errorf("fleets %q: got nil, want an error", fleets)
		}
	}
}
