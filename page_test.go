package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/internal/browsertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// The tokens of the page's roles.
const (
	viewToken    = "may-look-at-all-of-it"
	operateToken = "may-operate-all-of-it"
	adminToken   = "may-administer-all-of-it"
)

// TestPage does with the page, in a real Chromium, what people do with it.
func TestPage(t *testing.T) {
	t.Parallel()
	b := browsertest.Start(t)
	for _, test := range []struct {
		name string
		of   func(*testing.T, *browsertest.Browser)
	}{
		{"views", everyView}, // the longest
		{"sign in", signIn},
		{"queue", liveQueue},
		{"dead letters", actOnDeadLetters},
		{"no scripts", withoutScripts},
		{"roles", rolesAreDenied},
		{"other sites", otherSites},
		{"publishers", hostilePublishers},
		{"large fleet", largeFleet},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // each has a virtual host and daemons of its own
			test.of(t, b)
		})
	}
}

// A site is a daemon that serves its page.
type site struct {
	*process
	b   *browsertest.Browser
	v   *rabbittest.Vhost
	url string // without a path
}

// serve starts a daemon with these variables, and the tokens of the page.
func serve(t *testing.T, b *browsertest.Browser, v *rabbittest.Vhost, env ...string) *site {
	t.Helper()
	d := start(t, append(env, "WARREN_AMQP_URL="+v.URL, "WARREN_ADMIN_ADDR=127.0.0.1:0",
		"WARREN_UI_VIEW_TOKEN="+viewToken, "WARREN_UI_OPERATE_TOKEN="+operateToken, "WARREN_UI_ADMIN_TOKEN="+adminToken)...)
	return &site{d, b, v, d.adminURL(t)}
}

// open opens a tab of somebody who has signed in with the token.
func (s *site) open(t *testing.T, token string, look browsertest.Look) *browsertest.Page {
	t.Helper()
	p := s.b.Open(t, s.url, look)
	p.Do(t, `await page.goto($1 + '/ui/')
		await page.getByLabel('Token').fill($2)
		await page.getByRole('button', { name: 'Sign in' }).click()
		await page.getByTestId('role').waitFor()`, s.url, token)
	return p
}

// A phantom is a daemon that only says that it is there, and what it is doing.
type phantom func(now time.Time) fleet.Answer

// haunt has phantoms answer whoever asks for the status of the daemons of the vhost, as often
// and for as long as that is wanted, as real ones do, until the test ends.
func haunt(t *testing.T, v *rabbittest.Vhost, phantoms ...phantom) {
	t.Helper()
	ch := v.Channel(t)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.ExchangeDeclare(fleet.Exchange, "fanout", true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(q.Name, "", fleet.Exchange, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended, over := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(ended); <-over })
	go func() {
		defer close(over)
		type watcher struct {
			until, due time.Time
			every      time.Duration
		}
		watchers := make(map[string]watcher) // by the queue that they are answered to
		beat := time.NewTicker(fleet.WatchEvery / 20)
		defer beat.Stop()
		tell := func(queue string) {
			for _, p := range phantoms {
				body, _ := json.Marshal(p(time.Now()))
				_ = ch.Publish("", queue, false, false, amqp091.Publishing{Body: body}) // whoever asked may have gone
			}
		}
		for {
			select {
			case d, open := <-asked:
				var r fleet.Request
				if !open {
					asked = nil
				} else if err := json.Unmarshal(d.Body, &r); err == nil && r.Verb == fleet.VerbStatus {
					now := time.Now()
					watchers[d.ReplyTo] = watcher{now.Add(time.Duration(r.ForMillis) * time.Millisecond), now.Add(r.Every()), r.Every()}
					tell(d.ReplyTo)
				}
			case now := <-beat.C:
				for queue, w := range watchers {
					if now.After(w.until) {
						delete(watchers, queue)
					} else if now.After(w.due) {
						watchers[queue] = watcher{w.until, w.due.Add(w.every), w.every}
						tell(queue)
					}
				}
			case <-ended:
				return
			}
		}
	}()
}

// signIn refuses a wrong token, takes a right one, keeps it out of reach of scripts and
// addresses, and forgets it.
func signIn(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	s := serve(t, b, v, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log")
	p := b.Open(t, s.url, browsertest.Look{})
	p.Do(t, `await page.goto($1 + '/ui/?sort=-dead')
		await page.getByLabel('Token').fill('may-look-at-none-of-it')
		await page.getByRole('button', { name: 'Sign in' }).click()
		await page.getByTestId('error').getByText('no role has this token').waitFor()
		await page.getByLabel('Token').fill($2)
		await page.getByRole('button', { name: 'Sign in' }).click()
		await page.getByTestId('role').getByText('view').waitFor()
		await page.getByTestId('queue-row').getByText('emails').waitFor()`, s.url, viewToken)
	if at := browsertest.Get[string](t, p, "return page.url()"); at != s.url+"/ui/?sort=-dead" {
		t.Errorf("after signing in the address is %s, want the one that was asked for", at)
	}
	cookies := browsertest.Get[[]struct {
		Name, Value, Path, SameSite string
		HTTPOnly                    bool
	}](t, p, "return (await context.cookies()).map(c => ({ ...c, HTTPOnly: c.httpOnly }))")
	if len(cookies) != 1 || !cookies[0].HTTPOnly || cookies[0].SameSite != "Strict" || cookies[0].Path != "/ui/" || strings.Contains(cookies[0].Value, viewToken) {
		t.Errorf("the cookies are %+v, want one for /ui/ alone that no script and no other site gets", cookies)
	}
	p.Do(t, `const before = await context.cookies()
		await page.getByRole('button', { name: 'Sign out' }).click()
		await page.getByLabel('Token').waitFor()
		await context.addCookies(before)
		await page.goto($1 + '/ui/')
		await page.getByLabel('Token').waitFor()`, s.url)
	if strings.Contains(s.log.String(), viewToken) {
		t.Error("the log has a token")
	}
}
