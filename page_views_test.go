package main

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/browsertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// views are the addresses that links of the page lead to: one for each path and set of
// parameters, and one more where something evil is among them.
func (s *site) views(t *testing.T, p *browsertest.Page) []string {
	t.Helper()
	views := browsertest.Get[[]string](t, p, `
		const shape = u => u.pathname + ' ' + [...new Set(u.searchParams.keys())].sort() + u.search.includes('pwned')
		const found = new Map(), todo = [$1 + '/ui/']
		while (todo.length > 0) {
			const at = todo.shift(), s = shape(new URL(at))
			if (found.has(s)) continue
			found.set(s, at)
			await page.goto(at)
			todo.push(...await page.locator('a[href]:not([download]):not([data-testid=trace])').evaluateAll(all => all.map(a => a.href.replace(/#.*/, ''))))
		}
		return [...found.values()]`, s.url)
	for _, view := range views {
		if !strings.HasPrefix(view, s.url+"/ui/") {
			t.Errorf("a link leads to %s", view)
		}
	}
	return views
}

// nameOf is a name of a view for a file.
func nameOf(t *testing.T, view string) string {
	t.Helper()
	u, err := url.Parse(view)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(strings.Trim(strings.TrimPrefix(u.Path, "/ui/"), "/"), "/", "-")
	if name == "" {
		name = "overview"
	}
	for _, parameter := range []string{"filter", "show", "q", "sort", "id"} {
		if u.Query().Has(parameter) && (parameter != "id" || u.Path == "/ui/message") {
			name += "-" + parameter
		}
	}
	return path.Base(name)
}

var looks = []browsertest.Look{{}, {Dark: true}, {Phone: true}, {Phone: true, Dark: true}}

// furnish starts two daemons with something of everything.
func furnish(t *testing.T, b *browsertest.Browser) *site {
	v := rabbittest.NewVhost(t)
	env := []string{
		"WARREN_QUEUES=emails,thumbnails,invoices,webhooks,reports",
		"WARREN_QUEUE_EMAILS_PROCESSOR=log",
		"WARREN_QUEUE_THUMBNAILS_PROCESSOR=command", "WARREN_QUEUE_THUMBNAILS_COMMAND=sleep 1000", "WARREN_QUEUE_THUMBNAILS_CONCURRENCY=3",
		"WARREN_QUEUE_INVOICES_PROCESSOR=command", "WARREN_QUEUE_INVOICES_COMMAND=/bin/sh -c 'echo the accounting system does not answer >&2; exit 1'", "WARREN_QUEUE_INVOICES_RETRY_BASE=1h", "WARREN_QUEUE_INVOICES_BRAKE=false",
		"WARREN_QUEUE_WEBHOOKS_PROCESSOR=log",
		"WARREN_QUEUE_REPORTS_PROCESSOR=log",
		"WARREN_SCHEDULES=nightly,weekly-newsletter",
		"WARREN_SCHEDULE_NIGHTLY_CRON=0 2 * * *", "WARREN_SCHEDULE_NIGHTLY_QUEUE=reports", `WARREN_SCHEDULE_NIGHTLY_BODY={"report":"sales"}`,
		"WARREN_SCHEDULE_WEEKLY_NEWSLETTER_CRON=0 8 * * 1", "WARREN_SCHEDULE_WEEKLY_NEWSLETTER_QUEUE=emails", `WARREN_SCHEDULE_WEEKLY_NEWSLETTER_BODY={"newsletter":"weekly"}`,
		"WARREN_TRACE_URL=https://jaeger.example.net/trace/{trace}", "STATE_DIRECTORY=" + t.TempDir(),
	}
	s := serve(t, b, v, env...)
	start(t, append(env, "WARREN_AMQP_URL="+v.URL)...)
	many := func(queue string, n int, message func(i int) amqp091.Publishing) { v.PublishN(t, queue, n, message) }
	many("emails.dead", 38, func(i int) amqp091.Publishing {
		return deadLetter(fmt.Sprintf("order-A-%d", 1700+i), "exhausted", "451 4.3.0 mx1.example.net: try again later, the server is busy", fmt.Sprintf(`{"to":"ada@example.net","template":"confirmation","data":{"name":"Ada Lovelace","order":"A-%d","total":%d.90}}`, 1700+i, i+20))
	})
	many("emails.dead", 7, func(i int) amqp091.Publishing {
		return deadLetter(fmt.Sprintf("order-B-%d", i), "permanent", fmt.Sprintf("550 5.1.1 <user%d@example.org>: no such mailbox", i), `{"to":"nobody@example.org"}`)
	})
	many("emails.dead", 2, func(i int) amqp091.Publishing {
		return deadLetter(fmt.Sprintf("import-%d", i), "undecodable", "decode message: unexpected end of JSON input", `{"to":`)
	})
	many("webhooks.dead", 12, func(i int) amqp091.Publishing {
		return deadLetter(fmt.Sprintf("hook-%d", i), "permanent", "https://hooks.example.com/orders answered 410 Gone", `{"event":"order.paid"}`)
	})
	many("thumbnails", 11, func(i int) amqp091.Publishing {
		return amqp091.Publishing{MessageId: fmt.Sprintf("image-%d.jpg", i), Body: []byte("{}")}
	})
	many("invoices", 9, func(i int) amqp091.Publishing {
		return amqp091.Publishing{MessageId: fmt.Sprintf("invoice-2026-%d", i), Type: "invoice", Body: []byte("{}")}
	})
	succeeds(t, []string{"WARREN_AMQP_URL=" + v.URL}, "pause", "reports", "--why", "the database moves", "--for", "2h", "--yes")
	many("reports", 4, func(i int) amqp091.Publishing {
		return amqp091.Publishing{MessageId: fmt.Sprintf("report-%d", i), Body: []byte("{}")}
	})

	// And some who have been at work already.
	p := s.open(t, adminToken, browsertest.Look{})
	p.Do(t, `await page.goto($1 + '/ui/dead/discard?queue=emails&filter=' + encodeURIComponent('reason = undecodable'))
		await page.getByRole('button', { name: 'Discard 2 dead letters' }).click()
		await page.getByTestId('job-state').getByText('discarded 2').waitFor()
		await page.goto($1 + '/ui/dead/replay?queue=webhooks&all=yes')
		await page.getByRole('button', { name: 'Replay 12 dead letters' }).click()
		await page.getByTestId('job-state').getByText('replayed 12').waitFor()`, s.url)
	p.Do(t, `await page.goto($1 + '/ui/')
		await page.getByTestId('schedule-row').nth(1).waitFor()
		await page.getByTestId('daemon-row').nth(1).waitFor()
		await page.getByTestId('queue-row').filter({ hasText: 'invoices' }).getByRole('link', { name: '9' }).waitFor()`, s.url)
	return s
}

// documented are the pictures of docs/screenshots. With WARREN_TEST_SCREENSHOTS set,
// TestPage/views makes them anew.
var documented = []string{"dead.png", "overview.png"}

const screenshots = "docs/screenshots"

func document(t *testing.T, picture, name string) {
	t.Helper()
	content, err := os.ReadFile(picture)
	if err == nil {
		content, err = browsertest.Small(content)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(screenshots, name), content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestScreenshotsAreFew bounds what a clone has to carry for pictures.
func TestScreenshotsAreFew(t *testing.T) {
	files, err := os.ReadDir(screenshots)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var bytes int64
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		names, bytes = append(names, f.Name()), bytes+info.Size()
	}
	if !slices.Equal(names, documented) || bytes > 300_000 {
		t.Errorf("%s has %q with %d bytes, want %q with at most 300,000", screenshots, names, bytes, documented)
	}
}

// everyView looks at each view as axe-core does, light and dark, wide and narrow; keeps a
// picture of each; and prints what each costs.
func everyView(t *testing.T, b *browsertest.Browser) {
	s := furnish(t, b)
	views := s.views(t, s.open(t, adminToken, browsertest.Look{}))
	views = append(views, s.url+"/ui/message?id=image-0.jpg", s.url+"/ui/dead?queue=emails&filter=reason+%3D", s.url+"/ui/?q=nothing+like+that", s.url+"/ui/queue?queue=thumbnails")
	all := make(map[string]string)
	for _, view := range views {
		all[nameOf(t, view)] = view
	}
	for _, same := range []string{"overview-sort", "dead-discard-filter", "dead-replay-filter"} { // as the one without
		delete(all, same)
	}
	all["queue-paused"], all["queue-failing"] = s.url+"/ui/queue?queue=reports", s.url+"/ui/queue?queue=invoices"
	names := slices.Sorted(maps.Keys(all))
	t.Logf("%d views: %q", len(names), names)
	signIn := b.Open(t, s.url, browsertest.Look{})
	signIn.Do(t, "await page.goto($1 + '/ui/')", s.url)
	signIn.Accessible(t)
	signIn.Screenshot(t, "sign-in-desktop-light")
	for _, look := range looks {
		p := s.open(t, adminToken, look)
		for _, name := range names {
			before := p.Cost(t).Script
			p.Do(t, "await page.goto($1); await page.locator('footer').waitFor()", all[name])
			if wide := browsertest.Get[int](t, p, `return page.evaluate(() => Math.max(document.documentElement.scrollWidth - innerWidth,
				...[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)))`); wide > 0 {
				t.Errorf("%s is %d pixels wider than the window, or a table than its place, %s", name, wide, look)
			}
			if look == (browsertest.Look{}) {
				c := p.Cost(t)
				t.Logf("%-20s %2d requests, %6d bytes, %5.1f ms of script, first paint after %4.0f ms", name, c.Requests, c.Bytes, c.Script-before, c.Paint)
			}
			if look.Dark == look.Phone { // what differs are colours and widths, and each is there
				p.Accessible(t)
			}
			picture := p.Screenshot(t, fmt.Sprintf("%s-%s", name, look))
			if look == (browsertest.Look{}) && os.Getenv("WARREN_TEST_SCREENSHOTS") != "" && slices.Contains(documented, name+".png") {
				document(t, picture, name+".png")
			}
		}
	}
}
