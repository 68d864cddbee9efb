package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// leads tells whether the daemon leads a schedule, by its log.
func (d *process) leads(schedule string) bool {
	log := d.log.String()
	from := strings.LastIndex(log, `msg="leads the schedule" schedule=`+schedule+" ")
	return from > strings.LastIndex(log, `msg="leads the schedule no longer" schedule=`+schedule)
}

// schedulesFor is how long TestSchedulesSurviveKills goes on.
func schedulesFor(t *testing.T) time.Duration {
	t.Helper()
	const name = "SCHEDULES_FOR"
	value, set := os.LookupEnv(name)
	if !set {
		return time.Minute
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Minute {
		t.Fatalf("%s is %q; it must be a duration of at least 1m", name, value)
	}
	return d
}

// TestSchedulesSurviveKills has three daemons fire two schedules each second, kills the
// leader again and again, and restarts the node once. Every second is fired once:
// where all is made up for, without a gap, else with gaps no longer than it takes to
// succeed. The variable SCHEDULES_FOR makes it go on for longer than a minute.
func TestSchedulesSurviveKills(t *testing.T) {
	t.Parallel()
	length := schedulesFor(t)
	kills := min(max(4, int(length/time.Minute)), 10)
	v := rabbittest.NewNode(t)
	for _, name := range []string{"all", "skip"} {
		v.Declare(t, name, nil)
	}
	env := append(commandQueue(v, "other", "true"), "WARREN_SCHEDULES=all,skip",
		"WARREN_SCHEDULE_ALL_EVERY=1s", "WARREN_SCHEDULE_ALL_QUEUE=all", "WARREN_SCHEDULE_ALL_MISFIRE=all",
		"WARREN_SCHEDULE_SKIP_EVERY=1s", "WARREN_SCHEDULE_SKIP_QUEUE=skip", "WARREN_SCHEDULE_SKIP_MISFIRE=skip")
	daemons := []*process{start(t, env...), start(t, env...), start(t, env...)}
	// leader waits until there is one, and returns its index.
	leader := func(schedule string) (found int) {
		t.Helper()
		rabbittest.Eventually(t, 30*time.Second, func() bool {
			found = slices.IndexFunc(daemons, func(d *process) bool { return !d.hasEnded() && d.leads(schedule) })
			return found >= 0
		}, "a daemon leads the schedule "+schedule)
		return found
	}
	leader("all")
	leader("skip")

	type outage struct {
		from, to time.Time // until each schedule is led again
		node     bool      // and not a daemon's
	}
	var outages []outage
	begun := time.Now()
	pause := length / time.Duration(kills+1)
	for i := range kills {
		wait := time.Until(begun.Add(time.Duration(i)*pause + pause/2 + rand.N(time.Second)))
		<-time.After(wait)
		victim := leader([]string{"all", "skip"}[i%2])
		o := outage{from: time.Now()}
		if err := daemons[victim].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-daemons[victim].ended
		leader("all")
		leader("skip")
		o.to = time.Now()
		outages = append(outages, o)
		took := o.to.Sub(o.from)
		t.Logf("killed at %s, succeeded after %v", o.from.UTC().Format("15:04:05.000"), took.Round(time.Millisecond))
		if took > rabbittest.Soon {
			t.Errorf("nobody led for %v, want soon", took)
		}
		daemons[victim] = start(t, env...)
		if i == kills/2 {
			o := outage{from: time.Now(), node: true}
			if err := v.Node.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			up := time.Now()
			for _, schedule := range []string{"all", "skip"} {
				before := v.Ready(t, schedule)
				rabbittest.Eventually(t, 30*time.Second, func() bool { return v.Ready(t, schedule) > before }, "the schedule "+schedule+" fires again")
			}
			o.to = time.Now()
			outages = append(outages, o)
			t.Logf("the node was away for %v, both fire again %v later", up.Sub(o.from).Round(time.Millisecond), o.to.Sub(up).Round(time.Millisecond))
			if took := o.to.Sub(up); took > rabbittest.Soon {
				t.Errorf("nothing was fired for %v with the node up again, want soon", took)
			}
		}
	}
	<-time.After(time.Until(begun.Add(length)))
	// Each outage may have had a second fired twice.
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "all") >= int(length/time.Second)+len(outages) }, "each second has fired")
	for _, d := range daemons {
		if took := d.signal(t, syscall.SIGTERM); took > rabbittest.Soon {
			t.Errorf("a daemon has ended after %v", took)
		}
		wantExit(t, d, 0)
	}

	for _, schedule := range []string{"all", "skip"} {
		var planned []time.Time
		times := make(map[time.Time]int)
		for _, d := range v.Drain(t, schedule) {
			at := time.UnixMilli(d.Headers["x-warren-scheduled-for"].(int64)).UTC()
			if want := schedule + "@" + at.Format(time.RFC3339); d.MessageId != want {
				t.Errorf("message %s is planned for %v", d.MessageId, at)
			}
			if times[at]++; times[at] == 1 {
				planned = append(planned, at)
				continue
			}
			// Whoever is killed between the two confirms leaves open whether it has fired, which it
			// may have done late; so does a node that ends.
			if !slices.ContainsFunc(outages, func(o outage) bool {
				return at.After(o.from.Add(-5*time.Second)) && (at.Before(o.from) || o.node && at.Before(o.to))
			}) {
				t.Errorf("%s was fired twice", d.MessageId)
			}
			t.Logf("%s was fired twice, in doubt", d.MessageId)
		}
		if !slices.IsSortedFunc(planned, time.Time.Compare) {
			t.Errorf("schedule %s has fired out of order: %v", schedule, planned)
		}
		var gaps int
		for i := 1; i < len(planned); i++ {
			before, after := planned[i-1], planned[i]
			if after.Sub(before) == time.Second {
				continue
			}
			gaps++
			explained := schedule == "skip" && slices.ContainsFunc(outages, func(o outage) bool {
				return before.After(o.from.Add(-5*time.Second)) && after.Before(o.to.Add(5*time.Second)) // may be fired late
			})
			if !explained {
				t.Errorf("schedule %s has nothing between %v and %v", schedule, before, after)
			}
		}
		if want := int(length / time.Second); schedule == "all" && len(planned) < want {
			t.Errorf("schedule all has fired %d times, want %d", len(planned), want)
		}
		t.Logf("schedule %s: %d seconds fired, %d gaps", schedule, len(planned), gaps)
	}
}

func TestCheckSaysWhatSchedulesDo(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := append(commandQueue(v, "orders", "cat"), "WARREN_SCHEDULES=nightly,seed",
		"WARREN_SCHEDULE_NIGHTLY_CRON=CRON_TZ=Asia/Kathmandu 0 2 29 2 *", "WARREN_SCHEDULE_NIGHTLY_QUEUE=orders",
		"WARREN_SCHEDULE_SEED_ONCE=true", "WARREN_SCHEDULE_SEED_QUEUE=elsewhere")
	version, _, _ := output(t, warren(t, nil, "version"))
	var next []string
	kathmandu := time.FixedZone("", int((5*time.Hour + 45*time.Minute).Seconds()))
	for year := time.Now().Year(); len(next) < 3; year++ {
		if at := time.Date(year, time.February, 29, 2, 0, 0, 0, kathmandu); at.Month() == time.February && at.After(time.Now()) {
			next = append(next, at.Format(time.RFC3339))
		}
	}
	checks(t, env, 1,
		"ok     schedule nightly: next at "+strings.Join(next, ", ")+", to queue orders\n",
		"ok     schedule seed: once for version "+strings.Fields(version)[1]+", to queue elsewhere\n",
		"ok     queue warren.schedule.nightly: is missing; warren declares it when it starts\n",
		"FAULT  queue elsewhere: is missing; declare it, or name another one in WARREN_SCHEDULE_SEED_QUEUE\n")
	v.Declare(t, "elsewhere", nil)
	d := start(t, env...)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "elsewhere") == 1 }, "the schedule that fires once has fired")
	checks(t, env, 0, "ok     queue warren.schedule.seed: is there", "ok     queue elsewhere: is there, for schedule seed")
	d.signal(t, syscall.SIGTERM)
	if got := v.Drain(t, "elsewhere")[0]; !strings.HasPrefix(got.MessageId, "seed@") || got.MessageId == "seed@" || len(got.Body) != 0 {
		t.Errorf("got message %q with the body %q, want seed@ and the version, and none", got.MessageId, got.Body)
	}
}

// TestTimerExample runs the command of the example's unit against a real queue.
func TestTimerExample(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("systemd/examples/warren-nightly.service")
	if err != nil {
		t.Fatal(err)
	}
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	_, command, found := strings.Cut(string(unit), "\nExecStart=")
	command, _, _ = strings.Cut(command, "\n")
	if !found || !strings.Contains(command, "/usr/bin/warren ") {
		t.Fatalf("the unit starts %q, want a /usr/bin/warren", command)
	}
	v := rabbittest.NewVhost(t)
	v.Declare(t, "reports", nil)
	// systemd takes %% for a % and quotes as the shell does.
	command = strings.NewReplacer("%%", "%", "/usr/bin/warren", program).Replace(command)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "WARREN_AMQP_URL=" + v.URL}
	today := func() string { return "nightly@" + time.Now().UTC().Format(time.DateOnly) }
	before := today()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	got := v.Drain(t, "reports")[0]
	if got.MessageId != before && got.MessageId != today() || string(got.Body) != `{"report": "daily"}` { // unless the day has just ended
		t.Errorf("published %q with the body %s, want %s and the report", got.MessageId, got.Body, before)
	}
}
