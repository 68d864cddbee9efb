package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/internal/browsertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// largeFleet looks at a large fleet, acts on all dead letters of a queue, and measures both: with
// WARREN_TEST_FLEET=60 at 60 daemons, all but one of which only report, 100 queues, 10,000
// messages that wait and 100,000 dead letters; without it at a fifteenth of that, where
// figures are printed and not judged.
func largeFleet(t *testing.T, b *browsertest.Browser) {
	daemons := fleetSize(t)
	queues, waits, letters := daemons*100/60, daemons*10_000/60, daemons*100_000/60
	judged := os.Getenv("WARREN_TEST_FLEET") != ""
	name := func(i int) string { return fmt.Sprintf("queue-%03d", i) }
	v := rabbittest.NewVhost(t)
	var names, env []string
	for i := range queues {
		names = append(names, name(i))
		env = append(env, fmt.Sprintf("WARREN_QUEUE_QUEUE_%03d_PROCESSOR=log", i))
	}
	s := serve(t, b, v, append(env, "WARREN_QUEUES="+strings.Join(names, ","), "STATE_DIRECTORY="+t.TempDir())...)
	var phantoms []phantom
	for d := range daemons - 1 {
		began := time.Now().Add(-time.Hour)
		phantoms = append(phantoms, func(now time.Time) fleet.Answer {
			a := fleet.Answer{Daemon: fleet.Daemon{Host: fmt.Sprintf("vm%02d", d), PID: 7, Program: "warren", Version: "v1", Began: began}, Status: &fleet.Status{At: now, Node: "mq1:5672", Broker: "4.3.6"}}
			for _, q := range names {
				a.Status.Queues = append(a.Status.Queues, fleet.QueueStatus{
					Queue: q, Settings: "abcd", InFlight: 2, Slots: 8, Counts: map[string]int64{"ack": int64(now.Sub(began).Seconds()) * 10},
					Attempts: []fleet.Attempt{{MessageID: fmt.Sprintf("m-%d-%s", d, q), Attempt: 1, Began: now.Add(-time.Minute)}},
				})
			}
			return a
		})
	}
	haunt(t, v, phantoms...)
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return v.Consumers(t, name(queues-1)) == 1 }, "all queues are consumed")
	v.PublishN(t, name(0)+".dead", letters, func(i int) amqp091.Publishing {
		return deadLetter(fmt.Sprintf("order-%06d", i), "exhausted", fmt.Sprintf("451 4.3.0 mx%d.example.net: try again later", i%50), `{"to":"ada@example.net","template":"confirmation"}`)
	})
	v.PublishN(t, name(1), waits, func(i int) amqp091.Publishing {
		return amqp091.Publishing{MessageId: fmt.Sprintf("later-%05d", i), Headers: amqp091.Table{"x-delay": int64(3_600_000 + i)}, Body: []byte("{}")}
	})
	rabbittest.Eventually(t, 5*time.Minute, func() bool { return v.Ready(t, name(1)) == 0 }, "what is to be done later waits")
	pid := s.Process.Pid
	base := peakResident(t, pid)
	t.Logf("%d daemons, %d queues, %d waits, %d dead letters; the daemon has had %d MiB", daemons, queues, waits, letters, base>>20)

	// What is asked for is painted at once, and whole as soon as it is known.
	p := s.open(t, adminToken, browsertest.Look{})
	for _, view := range []string{"", "queue?queue=" + name(1), "waiting?queue=" + name(1), "dead", "dead?queue=" + name(0), "dead?show=list&queue=" + name(0), "message?id=m-1-" + name(2)} {
		begun := time.Now()
		p.Do(t, "await page.goto($1, { timeout: 600000 }); await page.locator('footer').waitFor()", s.url+"/ui/"+view)
		c := p.Cost(t)
		t.Logf("%-35s first paint after %4.0f ms, whole after %5d ms, %7d bytes, %5.1f ms of script", "/ui/"+view, c.Paint, time.Since(begun).Milliseconds(), c.Bytes, c.Script)
		if judged && c.Paint >= 1000 {
			t.Errorf("the first paint of /ui/%s came after %.0f ms, want less than a second", view, c.Paint)
		}
	}
	p.Do(t, `await page.goto($1 + '/ui/')
		await page.getByTestId('queue-row').nth($2 - 1).waitFor()
		await page.getByTestId('daemon-row').nth($3 - 1).waitFor()`, s.url, queues, daemons)

	// An act on all of them takes no more memory than one on few.
	looked := peakResident(t, pid)
	begun := time.Now()
	p.Do(t, `await page.goto($1 + '/ui/dead/discard?all=yes&queue=' + $2, { timeout: 600000 })
		await page.getByLabel('Type the name of the queue').fill($2)
		await page.getByRole('button', { name: 'Discard ' + $3 + ' dead letters' }).click()
		await page.getByTestId('job-state').getByText('discarded ' + $3 + ' messages').waitFor({ timeout: 600000 })`, s.url, name(0), grouped(letters))
	acted := peakResident(t, pid)
	t.Logf("looks took %d MiB more at most; to discard %d with an archive took %.1f s, the dry run included, and %d MiB more at most", (looked-base)>>20, letters, time.Since(begun).Seconds(), (acted-looked)>>20)
	if acted-base > 150<<20 {
		t.Errorf("looking and discarding took %d MiB, want at most 150", (acted-base)>>20)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, name(0)+".dead") == 0 }, "none is left")
	if !judged {
		return
	}

	// A tab that is open costs little, and none that is closed anything.
	const window = 30 * time.Second
	cost := func(what string) (percent float64, resident int64) {
		before := ticks(t, pid)
		<-time.After(window)
		percent, resident = float64(ticks(t, pid)-before)/window.Seconds(), residentOf(t, pid)
		t.Logf("%s: %.2f %% of a core, %.1f MiB", what, percent, float64(resident)/(1<<20))
		return percent, resident
	}
	p.Do(t, "await page.goto('about:blank')")
	<-time.After(window) // until nobody is watched any more
	without, least := cost("no tab")
	p.Do(t, "await page.goto($1 + '/ui/'); await page.getByTestId('live').getByText('live', { exact: true }).waitFor()", s.url)
	cost("one tab, in the half minute after it was opened")
	cost("one tab, in the next")
	with, most := cost("one tab, later")
	if with-without >= 1 {
		t.Errorf("an open tab costs %.2f %% of a core, want less than 1", with-without)
	}
	if most-least > 5<<20 {
		t.Errorf("an open tab costs %.1f MiB, want at most 5", float64(most-least)/(1<<20))
	}
}

// grouped is a number as the page has it.
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

// ticks are the hundredths of a second of processor time that a process has used.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name may have blanks
	fields := strings.Fields(after)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// residentOf is the memory that a process has now.
func residentOf(t *testing.T, pid int) int64 {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
