package schedule

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func mustCron(t *testing.T, expression, zone string) timing {
	t.Helper()
	c, err := parseCron(expression, zone)
	if err != nil {
		t.Fatalf("%s in %s: %v", expression, zone, err)
	}
	return c
}

// TestCronInstants waits for each instant, in a bubble whose clock begins in 2000, and
// holds them against what a person would write down.
func TestCronInstants(t *testing.T) {
	for _, c := range []struct{ expression, zone, from, want string }{
		// The clock is set forward: 02:00 to 03:00 in Berlin and New York, 02:00 to 02:30 on Lord Howe.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T03:00:00+01:00", "03-29T03:00+02:00 03-30T02:30+02:00"},
		{"0 3 * * *", "Europe/Berlin", "2026-03-28T03:00:00+01:00", "03-29T03:00+02:00 03-30T03:00+02:00"},
		{"*/20 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00", "03-29T03:00+02:00 03-30T02:00+02:00"},
		{"*/30 * * * *", "Europe/Berlin", "2026-03-29T01:00:00+01:00", "03-29T01:30+01:00 03-29T03:00+02:00 03-29T03:30+02:00"},
		{"30 2 * * *", "America/New_York", "2026-03-07T12:00:00-05:00", "03-08T03:00-04:00 03-09T02:30-04:00"},
		{"0 */2 * * *", "America/New_York", "2026-03-07T23:00:00-05:00", "03-08T00:00-05:00 03-08T03:00-04:00 03-08T04:00-04:00"},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", "10-04T02:30+11:00 10-05T02:15+11:00"},
		{"45 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", "10-04T02:45+11:00 10-05T02:45+11:00"},
		{"0 * * * *", "Australia/Lord_Howe", "2026-10-04T00:30:00+10:30", "10-04T01:00+10:30 10-04T03:00+11:00"},
		{"0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00-03:00", "11-04T01:00-02:00 11-05T00:00-02:00"},
		// The clock is set back: an hour in Berlin and New York, 02:00 to 01:30 on Lord Howe.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", "10-25T02:30+02:00 10-26T02:30+01:00"},
		{"0 3 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", "10-25T03:00+01:00 10-26T03:00+01:00"},
		{"30 * * * *", "Europe/Berlin", "2026-10-25T01:00:00+02:00", "10-25T01:30+02:00 10-25T02:30+02:00 10-25T02:30+01:00 10-25T03:30+01:00"},
		{"30 1 * * *", "America/New_York", "2026-10-31T12:00:00-04:00", "11-01T01:30-04:00 11-02T01:30-05:00"},
		{"*/30 0-2 * * *", "America/New_York", "2026-11-01T00:45:00-04:00", "11-01T01:00-04:00 11-01T01:30-04:00 11-01T02:00-05:00"},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00+11:00", "04-05T01:45+11:00 04-06T01:45+10:30"},
		{"*/15 * * * *", "Australia/Lord_Howe", "2026-04-05T01:40:00+11:00", "04-05T01:45+11:00 04-05T01:30+10:30 04-05T01:45+10:30 04-05T02:00+10:30"},
		// Ends of months, and a zone of 5:45.
		{"0 2 31 * *", "Asia/Kathmandu", "2026-01-01T00:00:00+05:45", "01-31T02:00+05:45 03-31T02:00+05:45 05-31T02:00+05:45"},
		{"0 2 L * *", "Europe/Berlin", "2027-12-31T12:00:00+01:00", "01-31T02:00+01:00 02-29T02:00+01:00 03-31T02:00+02:00"},
		{"0 2 29 2 *", "America/New_York", "2026-01-01T00:00:00-05:00", "02-29T02:00-05:00 02-29T02:00-05:00"},
		{"0 9 13 * FRI", "UTC", "2026-01-01T00:00:00Z", "01-02T09:00Z 01-09T09:00Z 01-13T09:00Z"}, // either, as in crontab(5)
		// A step that leads past the end of its range.
		{"0 8-10/3 * * *", "UTC", "2026-01-01T00:00:00Z", "01-01T08:00Z 01-02T08:00Z"},
		{"*/90 3-4/2,8-10/2 * * *", "UTC", "2026-01-01T00:00:00Z", "01-01T03:00Z 01-01T08:00Z 01-01T10:00Z 01-02T03:00Z"},
		{"0 0 * Feb-mar/5 *", "UTC", "2026-02-27T12:00:00Z", "02-28T00:00Z 02-01T00:00Z"},
		{"0 0 12 * * MON-FRI/7", "UTC", "2026-01-01T00:00:00Z", "01-05T12:00Z 01-12T12:00Z"},
		{"0 12 * * */7", "UTC", "2026-01-01T00:00:00Z", "01-04T12:00Z 01-11T12:00Z"},
		{"@monthly", "Europe/Berlin", "2026-09-30T12:00:00+02:00", "10-01T00:00+02:00 11-01T00:00+01:00"},
	} {
		synctest.Test(t, func(t *testing.T) {
			from, err := time.Parse(time.RFC3339, c.from)
			if err != nil {
				t.Fatal(err)
			}
			loc, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(from)) // 2000 is before all of them
			timing := mustCron(t, c.expression, c.zone)
			var got []string
			for range strings.FieldsSeq(c.want) {
				time.Sleep(time.Until(timing.next(time.Now())))
				got = append(got, time.Now().In(loc).Format("01-02T15:04Z07:00"))
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("%s in %s:\n got %s\nwant %s", c.expression, c.zone, got, c.want)
			}
		})
	}
}

// TestCronMatchesTheClock looks at every minute around the changes of five zones: an
// instant is meant if the clock then shows it and, unless every hour is meant, has not
// shown it before; what is never shown is made up for at the change.
func TestCronMatchesTheClock(t *testing.T) {
	minutes := map[string]func(time.Time) bool{
		"*/15 * * * *":    func(w time.Time) bool { return w.Minute()%15 == 0 },
		"7 * * * *":       func(w time.Time) bool { return w.Minute() == 7 },
		"*/10 1-3 * * *":  func(w time.Time) bool { return w.Minute()%10 == 0 && w.Hour() >= 1 && w.Hour() <= 3 },
		"0,20,40 2 * * *": func(w time.Time) bool { return w.Minute()%20 == 0 && w.Hour() == 2 },
		"5 */2 * * *":     func(w time.Time) bool { return w.Minute() == 5 && w.Hour()%2 == 0 },
		"0 0 * * *":       func(w time.Time) bool { return w.Minute() == 0 && w.Hour() == 0 },
		"59 23,0,1 * * *": func(w time.Time) bool { return w.Minute() == 59 && (w.Hour() == 23 || w.Hour() < 2) },
		"30 1,2,3 * * MON": func(w time.Time) bool {
			return w.Minute() == 30 && w.Hour() >= 1 && w.Hour() <= 3 && w.Weekday() == time.Monday
		},
	}
	for zone, changes := range map[string][]string{
		"Europe/Berlin":       {"2026-03-29", "2026-10-25"},
		"America/New_York":    {"2026-03-08", "2026-11-01"},
		"Australia/Lord_Howe": {"2026-04-05", "2026-10-04"},
		"America/Sao_Paulo":   {"2018-02-18", "2018-11-04"},
		"Asia/Kathmandu":      {"2026-01-31"},
	} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for _, day := range changes {
			noon, err := time.ParseInLocation("2006-01-02", day, loc)
			if err != nil {
				t.Fatal(err)
			}
			from, to := noon.Add(-30*time.Hour).UTC(), noon.Add(60*time.Hour).UTC()
			for expression, meant := range minutes {
				hourly := strings.Fields(expression)[1] == "*"
				var want []time.Time
				shown := make(map[time.Time]bool)
				last := wallClock(from.In(loc))
				for at := from.Add(time.Minute); !at.After(to); at = at.Add(time.Minute) {
					wall := wallClock(at.In(loc))
					due := meant(wall) && (hourly || !shown[wall])
					for skipped := last.Add(time.Minute); skipped.Before(wall); skipped = skipped.Add(time.Minute) {
						due = due || !hourly && meant(skipped)
					}
					if due {
						want = append(want, at)
					}
					shown[wall], last = true, wall
				}
				var got []time.Time
				c := mustCron(t, expression, zone)
				for at := c.next(from); !at.After(to); at = c.next(at) {
					got = append(got, at)
				}
				if len(want) == 0 || len(got) != len(want) {
					t.Errorf("%s in %s around %s: got %v, want %v", expression, zone, day, got, want)
					continue
				}
				for i := range got {
					if !got[i].Equal(want[i]) {
						t.Errorf("%s in %s around %s: got %v, want %v", expression, zone, day, got[i], want[i])
						break
					}
				}
			}
		}
	}
}

func TestFaultsOfCron(t *testing.T) {
	for _, c := range []struct{ expression, zone, want string }{
		{"", "", "empty"},
		{"0 2 * *", "", "expected 5 to 6 fields, found 4"},
		{"0 25 * * *", "", "above maximum (23)"},
		{"0 8-25/30 * * *", "", "above maximum (23)"},
		{"0 10-8/0 * * *", "", "positive"},
		{"@reboot", "", "unrecognized descriptor"},
		{"@every 5s", "", "EVERY"},
		{"0 0 30 2 *", "", "no day is like that"},
		{"CRON_TZ=", "", "empty"},
		{"CRON_TZ=Mars/Base 0 0 * * *", "", `there is no time zone "Mars/Base"`},
		{"0 0 * * *", "Local", `there is no time zone "Local"`},
		{"CRON_TZ=Europe/Berlin 0 0 * * *", "Asia/Kathmandu", "leave one out"},
	} {
		_, err := parseCron(c.expression, c.zone)
		if got := errorText(err); !strings.Contains(got, c.want) || got == "" {
			t.Errorf("%q in %q: got error %q, want %q in it", c.expression, c.zone, got, c.want)
		}
	}
}

func TestEveryIsAlignedTo1970(t *testing.T) {
	for _, c := range []struct {
		every       time.Duration
		after, want string
	}{
		{5 * time.Second, "2026-11-21T02:00:00Z", "2026-11-21T02:00:05Z"},
		{5 * time.Second, "2026-11-21T02:00:04.999Z", "2026-11-21T02:00:05Z"},
		{24 * time.Hour, "2026-11-21T02:00:00Z", "2026-11-22T00:00:00Z"},
		{7 * time.Second, "1970-01-01T00:00:00Z", "1970-01-01T00:00:07Z"},
	} {
		after, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, every(c.every).next(after).Format(time.RFC3339), c.want)
	}
}

// The newest missed instant is found without walking through a year of seconds.
func TestNewest(t *testing.T) {
	now := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		timing timing
		after  time.Duration // before now
		want   time.Duration // before now; negative: none
	}{
		{every(time.Second), 365 * 24 * time.Hour, 0},
		{every(time.Second), time.Second, 0},
		{every(time.Second), time.Second / 2, 0},
		{every(time.Second), 0, -1},
		{every(7 * time.Hour), 30 * time.Hour, time.Duration(now.UnixNano() % int64(7*time.Hour))},
		{mustCron(t, "* * * * * *", ""), 365 * 24 * time.Hour, 0},
		{mustCron(t, "0 3 * * *", ""), 10 * 24 * time.Hour, 23 * time.Hour},
		{mustCron(t, "0 3 * * *", ""), 23 * time.Hour, -1},
		{mustCron(t, "0 0 1 1 *", ""), 3 * 365 * 24 * time.Hour, now.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))},
	} {
		want := time.Time{}
		if c.want >= 0 {
			want = now.Add(-c.want)
		}
		if got := newest(c.timing, now.Add(-c.after), now); !got.Equal(want) {
			t.Errorf("newest of %v after %v: got %v, want %v", c.timing, c.after, got, want)
		}
	}
}

// FuzzSchedule: whatever is written there, it is either a timing whose instants go
// forward, or a fault in one line.
func FuzzSchedule(f *testing.F) {
	for _, seed := range []string{"0 2 * * *", "*/5 * * * * *", "CRON_TZ=Australia/Lord_Howe 15 2 L * *", "TZ=", "CRON_TZ= ", "@daily",
		"0 0 29 2 *", "0 0 15W * FRI#L", "59-5/3 22-2 25-5 NOV-FEB ?", "0 0 * * 7", "@every 1s", "0 0 1-7 * MON", "TZ=\t* * * * *"} {
		f.Add(seed, "")
	}
	f.Add("30 2 * * *", "Europe/Berlin")
	f.Fuzz(func(t *testing.T, expression, zone string) {
		c, err := parseCron(expression, zone)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Errorf("%q in %q: an empty error", expression, zone)
			}
			return
		}
		at := time.Date(2026, 3, 28, 23, 59, 30, 0, time.UTC)
		for range 50 {
			n := c.next(at)
			if n.IsZero() {
				return
			}
			if !n.After(at) || n.Nanosecond() != 0 {
				t.Fatalf("%q in %q: after %v comes %v", expression, zone, at, n)
			}
			at = n
		}
	})
}
