package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/internal/browsertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// otherSites has somebody who has signed in visit pages of others that want to use that:
// of the same host, whose requests bear the cookie, and of another.
func otherSites(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	s := serve(t, b, v, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log")
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>evil</title><link rel="icon" href="data:,">
			<form id="pause" method="post" action="%[1]s/ui/pause"><input name="queue" value="emails"><input name="why" value="evil"></form>
			<form id="logout" method="post" action="%[1]s/ui/logout"></form>
			<form id="login" method="post" action="%[1]s/ui/login"><input name="token" value="%[2]s"></form>
			<iframe id="frame" src="%[1]s/ui/"></iframe>`, s.url, viewToken)
	}))
	t.Cleanup(evil.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(evil.URL, "http://"), ":")
	for _, origin := range []string{evil.URL, "http://localhost:" + port} {
		p := s.open(t, operateToken, browsertest.Look{})
		p.Do(t, "await page.goto($1)", origin)
		if framed := browsertest.Get[string](t, p, "return page.frames()[1] ? page.frames()[1].url() : ''"); strings.HasPrefix(framed, s.url) {
			t.Errorf("%s frames the page: %q", origin, framed)
		}
		for _, form := range []string{"pause", "logout", "login"} {
			status := browsertest.Get[int](t, p, `await page.goto($1)
				const [answer] = await Promise.all([page.waitForResponse(r => r.request().method() === 'POST'), page.waitForURL($3 + '/**'),
					page.evaluate(id => document.getElementById(id).submit(), $2)])
				return answer.status()`, origin, form, s.url)
			if status != http.StatusForbidden {
				t.Errorf("%s posts the form %s: status %d, want 403", origin, form, status)
			}
		}
		stolen := browsertest.Get[[]string](t, p, `await page.goto($1)
			return page.evaluate(async url => Promise.all(['/ui/', '/ui/live?view=overview', '/ui/static/page.js'].map(async path => {
				try { return path + ' ' + (await (await fetch(url + path, { credentials: 'include' })).text()).slice(0, 50) } catch { return '' }
			})), $2)`, origin, s.url)
		if !slices.Equal(stolen, []string{"", "", ""}) {
			t.Errorf("%s reads %q", origin, stolen)
		}
		if opened := browsertest.Get[bool](t, p, `const [opened] = await Promise.all([context.waitForEvent('page'), page.evaluate(url => { window.it = open(url) }, $1 + '/ui/')])
			await opened.waitForLoadState()
			const reached = await page.evaluate(() => { try { return !it.closed && it.document.title !== undefined } catch { return false } })
			await opened.close()
			return reached`, s.url); opened {
			t.Errorf("%s reaches into the page that it has opened", origin)
		}
		p.Do(t, "await page.goto($1 + '/ui/'); await page.getByTestId('role').getByText('operate').waitFor()", s.url)
		p.Faults(t) // there were many
	}
	if log := s.log.String(); strings.Contains(log, "act=pause") || strings.Contains(log, `"sign out"`) {
		t.Errorf("the log has an act of another site:\n%s", log)
	}

	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	do := func(method, path, host, form string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer
	}
	// A site can give its own name this address.
	for _, name := range []string{"evil.example", "evil.example:80", "127.0.0.1.evil.example"} {
		if answer := do(http.MethodGet, "/ui/", name, ""); answer.StatusCode != http.StatusForbidden {
			t.Errorf("by the name %s: status %d, want 403", name, answer.StatusCode)
		}
	}
	// Nor does signing in lead elsewhere.
	for _, next := range []string{"https://evil.example/", "//evil.example/ui/", "/\\evil.example", "/ui/../../evil", "/ui//evil.example", "javascript:alert(1)", "/ui/\r\nX: y"} {
		answer := do(http.MethodPost, "/ui/login", "", url.Values{"token": {viewToken}, "next": {next}}.Encode())
		at, err := answer.Location()
		if err != nil || answer.StatusCode != http.StatusSeeOther || "http://"+at.Host != s.url || answer.Header.Get("X") != "" {
			t.Errorf("signing in with next=%s leads to %v, %v", next, at, err)
		}
	}
}

// evil is text that wants to be more than text: elements, a script, quotes that end an
// attribute, the direction of letters, and what a terminal takes for commands.
func evil(where string) string {
	return "<script>pwned('" + where + "')</script><img src=x onerror=pwned()>\"'><b onclick=pwned()>{{.}}\u202egnp.exe\u2066\u200b\x1b[31m\x00&lt;"
}

// hostilePublishers write such text wherever a message, or a daemon that only pretends to
// be one, can have any.
func hostilePublishers(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	queue := evil("q")
	env, _ := mailQueue(t, v)
	s := serve(t, b, v, append(env, "WARREN_TRACE_URL=https://jaeger.example.net/trace/{trace}")...)
	pause := &fleet.Pause{By: evil("by"), Why: evil("why"), Since: time.Now()}
	haunt(t, v, func(now time.Time) fleet.Answer {
		return fleet.Answer{Daemon: fleet.Daemon{Host: evil("host"), PID: 1, Program: evil("program"), Version: evil("version"), Began: now}, Status: &fleet.Status{
			At: now, Node: evil("node"), Broker: evil("broker"), Level: evil("level"), Quiet: pause,
			Queues: []fleet.QueueStatus{{
				Queue: queue, Reason: evil("reason"), Fault: evil("fault"), BrakedSince: now, Settings: evil("settings"), Paused: pause, InFlight: 1, Slots: 1,
				Counts:   map[string]int64{evil("verdict"): 1},
				Attempts: []fleet.Attempt{{MessageID: evil("attempt"), Attempt: 1, Began: now, TraceID: evil("trace")}},
				Failures: []fleet.Failure{{At: now, MessageID: evil("failure"), Attempt: 1, Verdict: evil("verdict"), Error: evil("error")}},
			}},
			Schedules: []fleet.Schedule{{Schedule: evil("schedule"), Leading: true, Next: now.Add(time.Hour), Fault: evil("fault")}},
		}}
	})
	v.Declare(t, queue, nil)
	letter := amqp091.Publishing{
		MessageId: evil("id"), Type: evil("type"), ContentType: evil("content"), ContentEncoding: evil("encoding"), CorrelationId: evil("correlation"), ReplyTo: evil("reply"),
		Expiration: "", AppId: evil("app"), Body: []byte(`{"` + evil("body")[:20] + `": "<script>pwned()</script>"}` + evil("body")),
		Headers: amqp091.Table{
			"x-warren-reason": evil("reason"), "x-warren-error": evil("error") + "\n" + evil("line"), "x-warren-exchange": evil("exchange"), "x-warren-routing-key": evil("key"),
			"x-warren-worker": evil("worker"), "x-warren-failed-at": evil("at"), "traceparent": evil("trace"), evil("header")[:100]: evil("value"), "nested": amqp091.Table{evil("n")[:100]: []any{evil("v")}},
		},
	}
	declareDead(t, v, queue, letter)
	v.Publish(t, "mails.dead", letter)

	p := s.open(t, adminToken, browsertest.Look{})
	p.Do(t, "await page.goto($1 + '/ui/'); await page.getByTestId('schedule-row').first().waitFor()", s.url)
	views := s.views(t, p)
	for _, faults := range p.Faults(t) {
		t.Errorf("while views were looked for: %s", faults)
	}
	seen := 0
	for _, view := range views {
		is := browsertest.Get[struct {
			Text    string
			Foreign []string // elements that are none of ours
		}](t, p, `await page.goto($1)
			await page.locator('footer').waitFor()
			return page.evaluate(() => ({
				Text: document.title + document.body.innerText,
				Foreign: [...document.querySelectorAll('script, img, iframe, object, embed, b')].map(e => e.outerHTML).filter(h => !h.startsWith('<script src="/ui/static/'))
					.concat([...document.querySelectorAll('*')].filter(e => e.getAttributeNames().some(n => n.startsWith('on') || n === 'style' || n === 'srcdoc')).map(e => e.outerHTML.slice(0, 200))),
			}))`, view)
		for _, fault := range append(is.Foreign, p.Faults(t)...) {
			t.Errorf("%s: %s", view, fault)
		}
		if at := strings.IndexFunc(is.Text, func(r rune) bool {
			return r < ' ' && r != '\n' && r != '\t' || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
		}); at >= 0 {
			t.Errorf("%s has a control character: %.80q", view, is.Text[at:])
		}
		if strings.Contains(is.Text, "<script>pwned(") {
			seen++
		}
	}
	if seen < 5 {
		t.Errorf("evil text is seen as text on %d of %d views, want 5 and more: %q", seen, len(views), views)
	}
}
