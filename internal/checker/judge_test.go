package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// good is the ledger of a run without a fault of Warren's: seconds after the start, and
// what happened.
const good = `
0.1 "event":"schedule","queue":"log","id":"tick","every":1000000,"until":3500000
0.1 "event":"published","queue":"q","id":"plain"
0.2 "event":"confirmed","queue":"q","id":"plain"
0.3 "event":"begun","queue":"q","id":"plain","attempt":1,"worker":"1.1"
0.4 "event":"done","queue":"q","id":"plain","attempt":1,"worker":"1.1"
0.5 "event":"published","queue":"q","id":"fails","waits":true
0.5 "event":"confirmed","queue":"q","id":"fails"
0.6 "event":"begun","queue":"q","id":"fails","attempt":1,"worker":"1.1"
0.6 "event":"failed","queue":"q","id":"fails","attempt":1,"worker":"1.1"
0.7 "event":"published","queue":"q","id":"dies","fate":"dead"
0.7 "event":"confirmed","queue":"q","id":"dies"
0.8 "event":"published","queue":"q","id":"unconfirmed"
0.9 "event":"published","queue":"sql","id":"row"
0.9 "event":"confirmed","queue":"sql","id":"row"
0.9 "event":"done","queue":"sql","id":"row","exact":true
1.0 "event":"done","queue":"log","id":"tick@1970-01-01T00:00:01Z","attempt":1,"worker":"1.1"
1.0 "event":"row","queue":"relayed","id":"a"
1.1 "event":"row","queue":"relayed","id":"b"
2.0 "event":"done","queue":"log","id":"tick@1970-01-01T00:00:02Z","attempt":1,"worker":"1.1"
2.1 "event":"fault","kind":"memory alarm","until":2200000
2.6 "event":"begun","queue":"q","id":"fails","attempt":2,"worker":"2.1"
2.7 "event":"done","queue":"q","id":"fails","attempt":2,"worker":"2.1"
3.0 "event":"done","queue":"log","id":"tick@1970-01-01T00:00:03Z","attempt":1,"worker":"1.1"
4.0 "event":"arrived","queue":"relayed","id":"a"
4.0 "event":"arrived","queue":"relayed","id":"b"
4.0 "event":"dead","queue":"q","id":"dies"
5.0 "event":"left","queue":"q","consumers":2,"wanted":2
5.0 "event":"measured","kind":"memory","worker":"1","before":50000000,"after":60000000
`

// ledger writes the lines as the ledger has them.
func ledger(t *testing.T, lines string) []event {
	t.Helper()
	var b bytes.Buffer
	for line := range strings.Lines(lines) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		at, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		whole, tenth, _ := strings.Cut(at, ".")
		b.WriteString(`{"at":` + strings.TrimLeft(whole+tenth, "0") + `00000,` + rest + "}\n")
	}
	events, err := read(&b)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestAGoodRunIsGreen(t *testing.T) {
	j := judge(ledger(t, good), 2)
	if len(j.violations) != 0 || j.void != "" {
		t.Errorf("got %q and void %q, want a green run", j.violations, j.void)
	}
	if j.published != 5 || j.confirmed != 4 || j.done != 6 || j.dead != 1 || j.lost != 0 || j.fired != 3 || j.relayed != 2 {
		t.Errorf("got %+v", j)
	}
}

// Each is one ledger that is wrong in one way.
func TestWhatIsWrongIsCaught(t *testing.T) {
	again := func(worker string) string {
		return `2.4 "event":"begun","queue":"q","id":"plain","attempt":1,"worker":"` + worker + `"` + "\n"
	}
	for name, test := range map[string]struct {
		without, with string
		want          string // a part of the only violation
	}{
		"lost":                          {`"event":"done","queue":"q","id":"plain"`, "", "lost: q plain"},
		"lost after it had failed":      {`"attempt":2,"worker":"2.1"`, "", "lost: q fails"},
		"lost in the dead letters":      {`"event":"dead"`, "", "lost: q dies"},
		"lost, more than were deleted":  {`"id":"plain","attempt":1`, `4.0 "event":"deleted","queue":"other","count":1`, "lost: q plain"},
		"lost when others were deleted": {`"id":"plain","attempt":1`, `0.4 "event":"deleted","queue":"q","until":500000`, "lost: q plain"},
		"lost before a deletion":        {`"event":"dead"`, `60.0 "event":"deleted","queue":"q","until":61000000`, "lost: q dies"},
		"unexpected":                    {"", `3.1 "event":"done","queue":"q","id":"whose","attempt":1,"worker":"1.1"`, "unexpected, nobody has published it: q whose"},
		"in another queue":              {"", `3.1 "event":"done","queue":"r","id":"plain","attempt":1,"worker":"1.1"`, "unexpected, nobody has published it: r plain"},
		"an unexpected dead letter":     {"", `4.0 "event":"dead","queue":"q","id":"whose"`, "unexpected"},
		"dead without reason":           {"", `4.0 "event":"dead","queue":"q","id":"plain"`, "dead, though nothing was wrong with it: q plain"},
		"done without reason":           {"", `3.1 "event":"done","queue":"q","id":"dies","attempt":1,"worker":"1.1"`, "done, though it was to be dead: q dies"},
		"repeated by the same worker":   {"", again("1.1"), "repeated without a cause: q plain"},
		"repeated by another":           {"", again("2.1"), "repeated without a cause: q plain"},
		"the same, its connection lost": {"", `0.4 "event":"fault","kind":"link cut","worker":"1.1","until":400000` + "\n" + again("1.1"), "repeated without a cause: q plain"},
		"another, whose connection was": {"", `0.4 "event":"fault","kind":"link cut","worker":"2.1","until":400000` + "\n" + again("2.1"), "repeated without a cause: q plain"},
		"repeated after an alarm":       {"", `0.4 "event":"fault","kind":"memory alarm","until":500000` + "\n" + again("2.1"), "repeated without a cause: q plain"},
		"repeated after a clean stop":   {"", `0.5 "event":"fault","kind":"worker stopped","worker":"1.1","until":600000` + "\n" + again("1.2"), "repeated without a cause: q plain"},
		"killed before it began":        {"", `0.2 "event":"fault","kind":"worker killed","worker":"1.0","until":200000` + "\n" + again("1.2"), "repeated without a cause: q plain"},
		"begun beside itself":           {"", `2.6 "event":"begun","queue":"q","id":"fails","attempt":2,"worker":"2.1"` + "\n" + `2.8 "event":"done","queue":"q","id":"fails","attempt":2,"worker":"2.1"`, "repeated without a cause: q fails"},
		"a retry after it was done":     {"", `3.1 "event":"done","queue":"q","id":"plain","attempt":2,"worker":"1.1"`, "repeated without a cause: q plain"},
		"a copy too many":               {"", `3.1 "event":"done","queue":"q","id":"fails","attempt":2,"worker":"1.1"`, "repeated without a cause: q fails"},
		"an effect twice":               {"", `1.0 "event":"done","queue":"sql","id":"row","exact":true`, "its effect is there 2 times: sql row"},
		"an effect twice, after a kill": {"", `0.8 "event":"fault","kind":"worker killed","until":800000` + "\n" + `1.0 "event":"done","queue":"sql","id":"row","exact":true`, "its effect is there 2 times: sql row"},
		"a time that was not fired":     {"tick@1970-01-01T00:00:02Z", "", "schedule tick did not fire what was planned for 00:00:02.000"},
		"a time that was not planned":   {"", `4.5 "event":"done","queue":"log","id":"tick@1970-01-01T00:00:04.5Z","attempt":1,"worker":"1.1"`, "not a multiple"},
		"a time fired twice":            {"", `2.1 "event":"done","queue":"log","id":"tick@1970-01-01T00:00:02Z","attempt":1,"worker":"2.1"`, "repeated without a cause: log tick"},
		"a row that never came":         {`"arrived","queue":"relayed","id":"b"`, "", "outbox: row b of queue relayed never came"},
		"a row out of order":            {`"arrived","queue":"relayed","id":"a"`, `4.1 "event":"arrived","queue":"relayed","id":"a"`, "outbox: row a of queue relayed came after a later one"},
		"a row of nobody's":             {"", `4.1 "event":"arrived","queue":"relayed","id":"c"`, "outbox: nobody has written the row c"},
		"messages left":                 {"", `5.0 "event":"left","queue":"warren.wait.q.1s","ready":1`, "queue warren.wait.q.1s had 1 messages ready"},
		"deliveries left":               {"", `5.0 "event":"left","queue":"r","unacked":2`, "2 unacknowledged"},
		"a worker that does not work":   {"", `5.0 "event":"left","queue":"r","consumers":3,"wanted":4`, "queue r had 3 consumers at the end, want 4"},
		"nobody looked":                 {`"left"`, "", "nobody has looked"},
		"goroutines":                    {"", `5.0 "event":"measured","kind":"goroutines","worker":"2","before":40,"after":130`, "goroutines of worker 2: 130 at the end, 40 at the start"},
		"channels":                      {"", `5.0 "event":"measured","kind":"channels","before":40,"after":130`, "channels"},
		"memory":                        {"", `5.0 "event":"measured","kind":"memory","worker":"2","before":50000000,"after":200000000`, "memory of worker 2"},
		"an event of no kind":           {"", `3.1 "event":"dome","queue":"q","id":"plain"`, `no event is called "dome"`},
	} {
		t.Run(name, func(t *testing.T) {
			lines := test.with + "\n"
			for line := range strings.Lines(good) {
				if test.without == "" || !strings.Contains(line, test.without) {
					lines += line
				}
			}
			j := judge(ledger(t, lines), 1)
			if len(j.violations) != 1 || !strings.Contains(j.violations[0], test.want) {
				t.Errorf("got %q, want one violation with %q", j.violations, test.want)
			}
			if lost := strings.HasPrefix(test.want, "lost"); lost != (j.lost == 1) {
				t.Errorf("lost %d", j.lost)
			}
		})
	}
}

// Each is one repeat that is allowed.
func TestRepeatsWithACause(t *testing.T) {
	for name, test := range map[string]struct{ with, cause string }{
		"killed": {`0.3 "event":"fault","kind":"worker killed","worker":"1.1","until":300000
			2.4 "event":"done","queue":"q","id":"plain","attempt":1,"worker":"1.2"`, workerKilled},
		"connection lost": {`0.4 "event":"fault","kind":"link half-open out","worker":"1.1","until":1400000
			2.4 "event":"done","queue":"q","id":"plain","attempt":1,"worker":"2.1"`, handedOver},
		"node lost": {`0.4 "event":"fault","kind":"node killed","until":1400000
			2.4 "event":"done","queue":"q","id":"plain","attempt":1,"worker":"2.1"`, handedOver},
		"copy published twice": {`0.6 "event":"fault","kind":"link cut","worker":"1.1","until":600000
			2.8 "event":"done","queue":"q","id":"fails","attempt":2,"worker":"1.1"`, copyTwice},
		"fired twice": {`1.9 "event":"fault","kind":"worker killed","worker":"2.1","until":1900000
			2.1 "event":"done","queue":"log","id":"tick@1970-01-01T00:00:02Z","attempt":1,"worker":"2.1"`, firedTwice},
		"cut short": {`1.2 "event":"published","queue":"q","id":"long"
			1.3 "event":"begun","queue":"q","id":"long","attempt":1,"worker":"1.1"
			1.4 "event":"fault","kind":"worker stopped","worker":"1.1","until":1900000
			2.1 "event":"done","queue":"q","id":"long","attempt":1,"worker":"1.2"`, cutShort},
	} {
		t.Run(name, func(t *testing.T) {
			j := judge(ledger(t, test.with+good), 1)
			if len(j.violations) != 0 || j.repeats[test.cause] != 1 || len(j.repeats) != 1 {
				t.Errorf("got repeats %v and violations %q, want one: %s", j.repeats, j.violations, test.cause)
			}
		})
	}
}

// What a fault has deleted is not lost.
func TestWhatWasDeletedIsNotLost(t *testing.T) {
	for _, deleted := range []string{`"id":"dies"`, `"count":1`, `"until":4100000`} {
		lines := strings.Replace(good, `"event":"dead","queue":"q","id":"dies"`, `"event":"deleted","queue":"q",`+deleted, 1)
		if j := judge(ledger(t, lines), 1); len(j.violations) != 0 || j.deleted != 1 {
			t.Errorf("deleted %s: got %q and %d deleted, want none and 1", deleted, j.violations, j.deleted)
		}
	}
}

func TestAVoidRunIsNotGreen(t *testing.T) {
	for name, test := range map[string]struct {
		lines   string
		minimum float64
		want    string
	}{
		"slow":    {good, 10, "messages a second"},
		"nothing": {`5.0 "event":"left","queue":"q"`, 0, "no fault"},
		"a fault before the first message": {`0.1 "event":"fault","kind":"link cut"
			5.0 "event":"left","queue":"q"`, 0, "messages a second"},
	} {
		if j := judge(ledger(t, test.lines), test.minimum); !strings.Contains(j.void, test.want) {
			t.Errorf("%s: got void %q, want %q", name, j.void, test.want)
		}
	}
}

// The program says in its exit status what came out.
func TestExitStatus(t *testing.T) {
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "ledger")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const whole = `{"at":1,"event":"published","queue":"q","id":"a"}
{"at":2,"event":"done","queue":"q","id":"a"}
{"at":3,"event":"fault","kind":"link cut"}
{"at":4,"event":"left","queue":"q"}
`
	for name, test := range map[string]struct {
		ledgers []string
		minimum float64
		status  int
		last    string
	}{
		"green":      {[]string{write(whole)}, 1, green, "verdict: green"},
		"void":       {[]string{write(whole)}, 1e9, void, "verdict: void"},
		"broken":     {[]string{write(whole), write(`{"at":5,"event":"dead","queue":"q","id":"b"}`)}, 1, broken, "verdict: broken, 1 violations"},
		"torn":       {[]string{write(whole), write(`{"at":5,"event":"de`)}, 1, unread, "line 1 of ledger 2"},
		"misspelled": {[]string{write(`{"at":5,"evnt":"dead"}`)}, 1, unread, "unknown field"},
		"missing":    {[]string{"/nowhere"}, 1, unread, "no such file"},
	} {
		var out bytes.Buffer
		status := run(test.minimum, test.ledgers, &out)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if last := lines[len(lines)-1]; status != test.status || !strings.Contains(last, test.last) {
			t.Errorf("%s: got exit status %d and %q, want %d and %q", name, status, last, test.status, test.last)
		}
	}
}
