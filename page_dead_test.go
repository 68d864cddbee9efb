package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/browsertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// mailQueue is a queue whose handler writes the bodies that it is given to a file, and fails
// for good with those that do not say good.
func mailQueue(t *testing.T, v *rabbittest.Vhost) (env []string, ledger string) {
	ledger = filepath.Join(t.TempDir(), "ledger")
	return commandQueue(v, "mails", `read -r b; echo "$b" >> `+ledger+`; case "$b" in *good*) exit 0; esac; echo no such mailbox >&2; exit 65`,
		"STATE_DIRECTORY="+t.TempDir()), ledger
}

// actOnDeadLetters filters, groups, opens, edits and replays dead letters, has a replay of
// many stop itself, and discards some.
func actOnDeadLetters(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	env, ledger := mailQueue(t, v)
	s := serve(t, b, v, env...)
	var letters []amqp091.Publishing
	for i := range 12 {
		letters = append(letters, deadLetter(fmt.Sprintf("late-%d", i), "exhausted", "451 4.3.0 try again later", `{"to":"ada@example.net"}`))
	}
	for i := range 3 {
		letters = append(letters, deadLetter(fmt.Sprintf("nobody-%d", i), "permanent", "550 no such mailbox", `{"to":"nobody@example.net"}`))
	}
	letters = append(letters, deadLetter("order-17", "undecodable", "it is bad", `{"state":"bad","n":12345678901234567890}`))
	v.Publish(t, "mails.dead", letters...)
	p := s.open(t, adminToken, browsertest.Look{})

	// By cause, and from a cause to its letters.
	p.Do(t, `await page.goto($1 + '/ui/dead?queue=mails')
		await page.getByTestId('looked').getByText('16 dead letters in 3 groups').waitFor()
		await page.getByTestId('group-row').filter({ hasText: '550 no such mailbox' }).getByRole('link', { name: 'permanent' }).click()
		await page.getByTestId('letter-row').nth(2).waitFor()`, s.url)
	rows := func() int { return browsertest.Get[int](t, p, "return page.getByTestId('letter-row').count()") }
	if n := rows(); n != 3 {
		t.Errorf("the group has %d letters, want 3", n)
	}
	// By the filter of warren dead; what is wrong with one is said.
	p.Do(t, `const filter = page.getByRole('searchbox', { name: 'Filter', exact: true })
		await filter.fill('reason = ')
		await filter.press('Enter')
		await page.getByTestId('error').waitFor()
		await filter.fill('error ~ "try again" and attempts >= 5')
		await filter.press('Enter')
		await page.getByTestId('letter-row').nth(11).waitFor()`)
	if n, at := rows(), browsertest.Get[string](t, p, "return new URL(page.url()).searchParams.get('filter')"); n != 12 || at != `error ~ "try again" and attempts >= 5` {
		t.Errorf("the filter %q leaves %d letters, want 12", at, n)
	}

	// One is read, edited, compared and put back, and is done.
	p.Do(t, `await page.goto($1 + '/ui/dead?queue=mails&show=list')
		await page.getByRole('link', { name: 'order-17' }).click()
		await page.getByTestId('why').getByText('undecodable').waitFor()
		await page.getByTestId('headers').getByText('tenant').waitFor()
		await page.getByTestId('body').getByText('"n": 12345678901234567890').waitFor()
		await page.getByRole('link', { name: 'Edit and replay…' }).click()
		await page.getByLabel('Body').fill('{"state":"good","n":12345678901234567890}')
		await page.getByRole('button', { name: 'Show the difference' }).click()
		await page.getByTestId('difference').getByText('+ {"state":"good"').waitFor()
		await page.getByTestId('difference').getByText('- {"state":"bad"').waitFor()
		await page.getByRole('button', { name: 'Replay with this body' }).click()
		await page.getByTestId('job-state').getByText('replayed 1 message of mails').waitFor()`, s.url)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		content, _ := os.ReadFile(ledger)
		return string(content) == `{"state":"good","n":12345678901234567890}`+"\n" && v.Ready(t, "mails.dead") == 15
	}, "the edited letter is worked, and dead no longer")

	// Of many a few go first; all of them fail again, and the rest stays.
	p.Do(t, `await page.goto($1 + '/ui/dead?queue=mails&filter=' + encodeURIComponent('reason = exhausted'))
		await page.getByRole('link', { name: 'Replay all…' }).click()
		await page.getByTestId('dry-run').getByText('12 dead letters').waitFor()
		await page.getByLabel('Canaries').fill('3')
		await page.getByLabel('See for, in seconds').fill('60')
		await page.getByRole('button', { name: 'Replay 12 dead letters' }).click()
		await page.getByTestId('job-state').getByText('it stopped by itself').waitFor()`, s.url)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "mails.dead") == 15 }, "all are dead")
	if done := browsertest.Get[string](t, p, "return page.getByTestId('job-done').innerText()"); done != "3" {
		t.Errorf("the replay has put back %s, want the 3 canaries alone", done)
	}

	// A discard says first what it would do, and leaves an archive.
	p.Do(t, `await page.goto($1 + '/ui/dead?queue=mails&filter=' + encodeURIComponent('id ~ nobody'))
		await page.getByRole('link', { name: 'Discard all…' }).click()
		await page.getByTestId('dry-run').getByText('Nothing has been done yet').waitFor()
		await page.getByTestId('dry-run').getByText('3 dead letters').waitFor()`, s.url)
	if n := v.Ready(t, "mails.dead"); n != 15 {
		t.Errorf("after the dry run there are %d dead letters, want all 15", n)
	}
	archive := browsertest.Get[string](t, p, `await page.getByRole('button', { name: 'Discard 3 dead letters' }).click()
		await page.getByTestId('job-state').getByText('discarded 3 messages of mails').waitFor()
		const [download] = await Promise.all([page.waitForEvent('download'), page.getByTestId('archive').getByRole('link').click()])
		return download.path()`)
	content, err := os.ReadFile(archive)
	if err != nil || strings.Count(string(content), "\n") != 3 || !strings.Contains(string(content), "nobody-2") {
		t.Errorf("the archive: %v\n%s\nwant the three that were discarded", err, content)
	}
	if n := v.Ready(t, "mails.dead"); n != 12 {
		t.Errorf("after the discard there are %d dead letters, want 12", n)
	}
}

// rolesAreDenied tries what a role may not, by the links that it is shown none of.
func rolesAreDenied(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	env, _ := mailQueue(t, v)
	s := serve(t, b, v, env...)
	v.Publish(t, "mails.dead", deadLetter("order-17", "permanent", "550 no such mailbox", "{}"))
	for _, test := range []struct {
		token string
		shown string // the buttons and links that act
	}{
		{viewToken, ""},
		{operateToken, "Replay"},
		{adminToken, "Replay, Edit and replay…, Discard…"},
	} {
		p := s.open(t, test.token, browsertest.Look{})
		shown := browsertest.Get[string](t, p, `await page.goto($1 + '/ui/dead/letter?queue=mails&id=order-17')
			return (await page.getByTestId('letter').locator('button, a.button').allInnerTexts()).join(', ')`, s.url)
		if shown != test.shown {
			t.Errorf("with %s the letter has %q, want %q", test.token, shown, test.shown)
		}
		denied := func(path string, allowed bool) {
			t.Helper()
			status := browsertest.Get[int](t, p, `const [, method, path] = /(\w+) (.*)/.exec($2)
				const url = new URL($1 + path)
				const answer = method === 'GET' ? await context.request.get(url.href) : await context.request.post(url.origin + url.pathname, { form: Object.fromEntries(url.searchParams), maxRedirects: 0 })
				return answer.status()`, s.url, path)
			if (status == http.StatusForbidden) == allowed {
				t.Errorf("with %s %s has status %d", test.token, path, status)
			}
		}
		operates, administers := test.token != viewToken, test.token == adminToken
		denied("GET /ui/dead/replay?queue=mails&all=yes", operates)
		denied("GET /ui/dead/discard?queue=mails&all=yes", administers)
		denied("GET /ui/dead/edit?queue=mails&id=order-17", administers)
		denied("GET /ui/archive?name=none", administers)
		denied("POST /ui/dead/edit?queue=mails&id=order-17", administers)
		if !operates {
			denied("POST /ui/dead/replay?queue=mails&id=order-17", false)
		}
		if !administers {
			denied("POST /ui/dead/discard?queue=mails&id=order-17&confirmed=yes", false)
			denied("POST /ui/dead/edited?queue=mails&id=order-17", false)
		}
	}
	if n := v.Ready(t, "mails.dead"); n != 1 {
		t.Errorf("there are %d dead letters, want the one", n)
	}
	for _, denied := range []string{`act=replay outcome="denied: takes the role operate" role=view`, `act=discard outcome="denied: takes the role admin" role=operate`} {
		rabbittest.Eventually(t, time.Minute, func() bool { return strings.Contains(s.log.String(), denied) }, "the log has "+denied)
	}
}
