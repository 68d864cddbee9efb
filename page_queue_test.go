package main

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/browsertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// liveQueue sees a queue move, and steers it, by mouse, by keys and without JavaScript.
func liveQueue(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	s := serve(t, b, v, commandQueue(v, "orders", `case "$(cat)" in *hangs*) exec sleep 1000; esac`, "WARREN_QUEUE_ORDERS_CONCURRENCY=1", "WARREN_QUEUE_ORDERS_PREFETCH=1",
		"WARREN_TRACE_URL=https://jaeger.example.net/trace/{trace}")...)
	p := s.open(t, operateToken, browsertest.Look{})
	p.Do(t, `await page.getByRole('link', { name: 'orders' }).click()
		await page.getByTestId('live').getByText('live', { exact: true }).waitFor()
		await page.evaluate(() => { window.loaded = 'once' })`)
	ready := func(n int) {
		t.Helper()
		p.Do(t, "await page.getByTestId('sums').locator('div', { hasText: 'Ready' }).getByText($1, { exact: true }).waitFor()", strconv.Itoa(n))
	}
	ready(0)
	v.Publish(t, "orders", amqp091.Publishing{
		MessageId: "order-17", Body: []byte("hangs"), Headers: amqp091.Table{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	})
	if at := browsertest.Get[string](t, p, "return page.getByTestId('attempt-row').filter({ hasText: 'order-17' }).getByRole('link', { name: 'Trace of order-17' }).getAttribute('href')"); at != "https://jaeger.example.net/trace/0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("its trace is %s", at)
	}
	v.Publish(t, "orders", amqp091.Publishing{}, amqp091.Publishing{}, amqp091.Publishing{})
	ready(3)
	v.Publish(t, "orders", amqp091.Publishing{}, amqp091.Publishing{})
	ready(5)
	if loaded := browsertest.Get[string](t, p, "return page.evaluate(() => window.loaded)"); loaded != "once" {
		t.Error("the page was loaded anew; what changes is to come over the stream")
	}

	// Nobody takes what is paused, and everybody sees why.
	p.Do(t, `await page.getByLabel('Why it is paused').fill('the database moves')
		await page.getByRole('button', { name: 'Pause for the whole fleet' }).click()
		await page.getByTestId('state').getByText('the database moves').waitFor()`)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return strings.Contains(s.log.String(), "the queue is paused") }, "the daemon has paused it")
	other := s.open(t, viewToken, browsertest.Look{})
	other.Do(t, "await page.getByTestId('queue-row').filter({ hasText: 'the database moves' }).getByText('paused').waitFor()")
	p.Do(t, `await page.getByRole('button', { name: 'Resume' }).click()
		await page.getByRole('button', { name: 'Pause for the whole fleet' }).waitFor()`)

	// What hangs is ended and kept, and the rest goes on.
	p.Do(t, `await page.getByRole('button', { name: 'Cancel order-17' }).click()
		await page.getByTestId('failure-row').filter({ hasText: 'order-17' }).waitFor()`)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders") == 0 && v.Ready(t, "orders.dead") == 1 }, "the others are done")
	p.Do(t, `await page.getByLabel('Find a message by its id').fill('order-17')
		await page.keyboard.press('Enter')
		await page.getByTestId('found-dead').filter({ hasText: 'cancelled' }).waitFor()`)

	// By keys alone.
	p.Do(t, `const ready = () => page.locator('html.has-js').waitFor()
		await ready()
		await page.keyboard.press('Escape')
		await page.locator('body').press('?')
		await page.getByRole('dialog', { name: 'Keys' }).waitFor()
		await page.keyboard.press('Escape')
		await page.getByRole('dialog', { name: 'Keys' }).waitFor({ state: 'hidden' })
		await page.locator('body').press('o')
		await page.getByTestId('queue-row').waitFor()
		await ready()
		await page.locator('body').press('j')
		await page.keyboard.press('Enter')
		await page.getByTestId('attempts').or(page.getByText('Nothing is in flight')).waitFor()
		await ready()
		await page.locator('body').press('d')
		await page.getByTestId('dead-queues').waitFor()`)

	// A daemon that is no more leaves a page that says so.
	p.Do(t, "await page.locator('html.has-js').waitFor(); await page.locator('body').press('o'); await page.getByTestId('live').getByText('live', { exact: true }).waitFor()")
	if err := s.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.Do(t, "await page.getByTestId('live').getByText('stale since').waitFor()")
	if err := s.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.Do(t, "await page.getByTestId('live').getByText('live', { exact: true }).waitFor()")
}

// withoutScripts does the same where there is no JavaScript.
func withoutScripts(t *testing.T, b *browsertest.Browser) {
	v := rabbittest.NewVhost(t)
	env, _ := mailQueue(t, v)
	s := serve(t, b, v, env...)
	v.Publish(t, "mails.dead", deadLetter("order-17", "permanent", "550 no such mailbox", `{"state":"good"}`))
	p := s.open(t, adminToken, browsertest.Look{NoScript: true})
	p.Do(t, `await page.getByRole('link', { name: 'mails' }).first().click()
		await page.getByRole('button', { name: 'Pause for the whole fleet' }).click()
		const resume = page.getByRole('button', { name: 'Resume' }), pause = page.getByRole('button', { name: 'Pause for the whole fleet' })
		while (!await resume.isVisible()) await page.reload()
		await resume.click()
		while (!await pause.isVisible()) await page.reload()
		await page.goto($1 + '/ui/dead?queue=mails&show=list')
		await page.getByRole('link', { name: 'order-17' }).click()
		await page.getByRole('button', { name: 'Replay', exact: true }).click()
		await page.getByTestId('job-state').getByText('replayed 1 message of mails').waitFor()`, s.url)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "mails.dead") == 0 }, "it is worked")
}
