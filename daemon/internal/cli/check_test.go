package cli

import (
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

func TestClockAnHourWrong(t *testing.T) {
	now := time.Now()
	at := func(host string, at time.Time) fleet.Answer {
		return fleet.Answer{Daemon: fleet.Daemon{Host: host, PID: 7}, Status: &fleet.Status{At: at}}
	}
	var got []string
	for _, f := range clocks([]fleet.Answer{at("vm1", now.Add(-time.Second)), at("vm2", now.Add(time.Hour)), at("vm3", now.Add(-time.Hour)), {Error: "no"}}, now) {
		got = append(got, f.What+": "+f.Text)
	}
	want := []string{"clock of vm2/7: 1h0m0s ahead of this machine's", "clock of vm3/7: 1h0m0s behind this machine's"}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %q, want %q", got, want)
	}
}
