package brake

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("connection refused")

func newBrake(limit int) (*Brake, *bytes.Buffer) {
	var logged bytes.Buffer
	return New(true, limit, slog.New(slog.NewTextHandler(&logged, nil))), &logged
}

// try makes an attempt that ends at once.
func (b *Brake) try(first bool, o Outcome) { b.Begin(first).End(o, errRefused) }

func wantSlots(t *testing.T, b *Brake, slots int, braked bool) {
	t.Helper()
	if p := b.Pace(); p.Slots != slots || p.Braked != braked {
		t.Errorf("got %d slots, braked %v, want %d, %v", p.Slots, p.Braked, slots, braked)
	}
}

func TestWhatLooksDown(t *testing.T) {
	for name, c := range map[string]struct {
		outcomes func(i int) (first bool, o Outcome)
		after    int // attempts; zero: never
	}{
		"all unavailable":                {func(int) (bool, Outcome) { return true, Unavailable }, Unavailables},
		"all unavailable, tried again":   {func(int) (bool, Outcome) { return false, Unavailable }, Unavailables},
		"all failing":                    {func(int) (bool, Outcome) { return true, Failed }, Failures},
		"some unavailable, some failing": {func(i int) (bool, Outcome) { return true, Failed + Outcome(i%2) }, 2 * Unavailables},
		"all ignored":                    {func(int) (bool, Outcome) { return true, Ignored }, 0},
		"the same failing again":         {func(int) (bool, Outcome) { return false, Failed }, 0},
		"half failing":                   {func(int) (bool, Outcome) { return true, Success + Outcome(rand.IntN(2)) }, 0},
		"four in five failing":           {func(i int) (bool, Outcome) { return true, Failed - Outcome(one(i%5 == 4)) }, 0},
		"every third unavailable":        {func(i int) (bool, Outcome) { return true, Success + 2*Outcome(one(i%3 == 0)) }, 0},
		"unavailable among ignored": {func(i int) (bool, Outcome) {
			if i%2 == 0 {
				return true, Ignored
			}
			return true, Unavailable
		}, 2 * Unavailables},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newBrake(8)
			n := 0
			for ; n < 5000 && !b.Braked(); n++ {
				b.try(c.outcomes(n))
			}
			if c.after == 0 {
				c.after = 5000
			}
			if n != c.after {
				t.Errorf("braked after %d attempts, want %d", n, c.after)
			}
		})
	}
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// An outage of ten minutes, and what it costs.
func TestProbesUntilOneSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, logged := newBrake(64)
		began := time.Now()
		attempts := 0
		for range Unavailables {
			wantSlots(t, b, 64, false)
			b.try(true, Unavailable)
			attempts++
		}
		for time.Since(began) < 10*time.Minute {
			p := b.Pace()
			if p.Slots == 0 {
				<-time.After(time.Until(p.Until))
				continue
			}
			wantSlots(t, b, 1, true)
			probe := b.Begin(false)
			b.try(true, Success) // of one that was never to be started: it is no probe
			wantSlots(t, b, 1, true)
			probe.End(Unavailable, errRefused)
			wantSlots(t, b, 0, true)
			attempts++
		}
		if attempts > 170 {
			t.Errorf("%d attempts were made, want 170 at most", attempts)
		}
		if since, fault := b.Status(); !since.Equal(began) || fault != errRefused.Error() {
			t.Errorf("got %v and %q, want %v", since, fault, began)
		}
		<-time.After(time.Until(b.Pace().Until))
		b.try(true, Ignored) // a probe that tells nothing is followed by the next at once
		wantSlots(t, b, 1, true)
		b.try(false, Success)
		for slots := 2; slots < 64; slots *= 2 {
			wantSlots(t, b, slots, false)
			<-time.After(time.Until(b.Pace().Until))
		}
		wantSlots(t, b, 64, false)
		if took := time.Since(began) - 10*time.Minute; took > ProbeEvery+time.Second {
			t.Errorf("at full speed %v after the end", took)
		}
		if since, fault := b.Status(); !since.IsZero() || fault != "" || b.Braked() {
			t.Errorf("after the end: %v, %q", since, fault)
		}
		if lines := strings.Split(strings.TrimSpace(logged.String()), "\n"); len(lines) != 2 ||
			!strings.Contains(lines[0], `error="connection refused"`) || !strings.Contains(lines[0], "probe_every=4s") || !strings.Contains(lines[1], "duration=10m") {
			t.Errorf("the log is\n%s", logged)
		}
	})
}

func TestAProbeOfARetryCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBrake(8)
		for range Failures {
			b.try(true, Failed)
		}
		<-time.After(time.Until(b.Pace().Until))
		wantSlots(t, b, 1, true)
		b.try(false, Failed)
		wantSlots(t, b, 0, true)
	})
}

// What was begun before the brake was on or off tells of another time.
func TestLateOutcomesTellNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBrake(8)
		late := b.Begin(true)
		others := make([]Attempt, 0, 20)
		for range 20 {
			others = append(others, b.Begin(true))
		}
		for range Unavailables {
			b.try(true, Unavailable)
		}
		late.End(Success, nil)
		wantSlots(t, b, 0, true)
		<-time.After(time.Until(b.Pace().Until))
		b.try(true, Success)
		for _, other := range others {
			other.End(Unavailable, errRefused)
		}
		b.try(true, Unavailable)
		wantSlots(t, b, 2, false)
	})
}

// While speed comes back, few failures are enough.
func TestABackThatIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBrake(8)
		for range Unavailables {
			b.try(true, Unavailable)
		}
		<-time.After(time.Until(b.Pace().Until))
		b.try(true, Success)
		for range 4 {
			wantSlots(t, b, 2, false)
			b.try(true, Unavailable)
		}
		wantSlots(t, b, 0, true)
	})
}

func TestABrakeThatIsOff(t *testing.T) {
	b := New(false, 8, slog.New(slog.DiscardHandler))
	for range 1000 {
		b.try(true, Unavailable)
	}
	wantSlots(t, b, 8, false)
}

func BenchmarkSuccess(b *testing.B) {
	brake := New(true, 8, slog.New(slog.DiscardHandler))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			brake.try(true, Success)
		}
	})
}
