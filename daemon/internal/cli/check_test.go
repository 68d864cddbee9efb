package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

func TestClockAnHourWrong(t *testing.T) {
	now := time.Now()
	at := func(host string, at time.Time) fleet.Answer {
		return fleet.Answer{Daemon: fleet.Daemon{Host: host, PID: 7}, Status: &fleet.Status{At: at}}
	}
	var printed bytes.Buffer
	out := findings{list: format{"table"}.list(&printed, nil)}
	checkClocks(t.Context(), nil, []fleet.Answer{at("vm1", now.Add(-time.Second)), at("vm2", now.Add(time.Hour)), at("vm3", now.Add(-time.Hour)), {Error: "no"}}, &out)
	got := regexp.MustCompile("(?m)^WARN .*$").FindAllString(printed.String(), -1)
	want := regexp.MustCompile(`^WARN   clock of vm2/7: (59m|1h0m)\d+s ahead of this machine's
WARN   clock of vm3/7: 1h0m\d+s behind this machine's$`)
	if !want.MatchString(strings.Join(got, "\n")) {
		t.Errorf("got %q, want %s", got, want)
	}
}
