package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Who signs in to the page with these may do so much.
const (
	uiAdmin   = "do-everything-here"
	uiOperate = "pause-and-replay-here"
	uiView    = "only-look-around-here"
)

// more are the variables of what is there to be looked at. No schedule is due soon.
var more = []string{
	"WARREN_UI_ADMIN_TOKEN=" + uiAdmin,
	"WARREN_UI_OPERATE_TOKEN=" + uiOperate,
	"WARREN_UI_VIEW_TOKEN=" + uiView,
	"WARREN_SCHEDULES=nightly,newsletter",
	"WARREN_SCHEDULE_NIGHTLY_CRON=0 2 * * *",
	"WARREN_SCHEDULE_NIGHTLY_TZ=Europe/Berlin",
	"WARREN_SCHEDULE_NIGHTLY_QUEUE=reports",
	`WARREN_SCHEDULE_NIGHTLY_BODY={"report": "sales", "format": "csv", "params": {"since": "2026-11-01"}}`,
	"WARREN_SCHEDULE_NEWSLETTER_CRON=0 8 * * 1",
	"WARREN_SCHEDULE_NEWSLETTER_QUEUE=log",
	`WARREN_SCHEDULE_NEWSLETTER_BODY={"newsletter": "weekly"}`,
}

// keep publishes what is worth looking at, says where the page is, and leaves it up, with
// messages that come and go, until ctx ends.
func keep(ctx context.Context, b *broker, d *daemon) error {
	step("Messages that wait, fail, hang and are kept")
	for _, m := range []struct {
		queue, id, body string
		count           int
		headers         amqp.Table
	}{
		{"emails", "mail-nobody", `{"to": "nobody", "subject": "Order %d", "text": "Thank you."}`, 14, nil},
		{"emails", "mail-invoice", `{"to": "ada@example.net", "template": "invoice", "data": {"order": "B-%d"}}`, 9, nil},
		{"commands", "hopeless", `{"customer": 4711, "order": %d}`, 23, nil},
		{"commands", "failing", `{"order": %d}`, 12, nil},
		{"commands", "stuck", `{"order": %d}`, 1, nil},
		{"reports", "report", `{"report": "turnover", "format": "csv", "params": {"month": %d}}`, 6, nil},
		{"chores", "chore", `{"statement": "tidy-up", "params": {"shop": %d}}`, 4, nil},
		{"log", "reminder", `{"remind": "Ada", "number": %d}`, 5, amqp.Table{"x-delay": int32(600_000)}},
		{"log", "anniversary", `{"remind": "Ada", "year": %d}`, 3, amqp.Table{"x-delay": int32(86_400_000)}},
	} {
		for i := range m.count {
			if err := b.publish(ctx, m.queue, fmt.Sprintf("%s-%d", m.id, i+1), fmt.Sprintf(m.body, i+1), m.headers); err != nil {
				return err
			}
		}
	}
	for queue, count := range map[string]int{"emails.dead": 23, "commands.dead": 23, "reports.dead": 6, "chores.dead": 4} {
		err := until(ctx, fmt.Sprintf("%s has %d messages", queue, count), func() (bool, error) {
			q, err := b.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return q.Messages >= count, err
		})
		if err != nil {
			return err
		}
	}
	pause := exec.CommandContext(ctx, d.path, "pause", "chores", "--why", "the database moves", "--yes")
	pause.Env = d.env
	if out, err := pause.CombinedOutput(); err != nil {
		return fmt.Errorf("warren pause: %w\n%s", err, out)
	}
	for i := range 40 {
		if err := b.publish(ctx, "chores", fmt.Sprintf("sample-%d", i+10), `{"statement": "add-orders", "params": {"count": 1}}`, nil); err != nil {
			return err
		}
	}

	found := listens.FindStringSubmatch(d.log())
	if found == nil {
		return errors.New("the log does not say where the admin server listens")
	}
	fmt.Printf(`
The page is at http://%s/ui/ until Ctrl-C. Sign in with one of these tokens:

   %-24s may do everything
   %-24s may pause, cancel and replay
   %-24s may look
`, found[1], uiAdmin, uiOperate, uiView)

	beat := time.NewTicker(250 * time.Millisecond)
	defer beat.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.ended:
			d.ended <- err
			return fmt.Errorf("the daemon has ended: %w", err)
		case <-beat.C:
		}
		queue, id := "log", fmt.Sprintf("tick-%d", i)
		switch {
		case i%40 == 0:
			queue, id = "commands", fmt.Sprintf("hopeless-%d", i)
		case i%10 == 0:
			queue, id = "commands", fmt.Sprintf("slow-%d", i)
		case i%3 == 0:
			queue = "commands"
		}
		if err := b.publish(ctx, queue, id, fmt.Sprintf(`{"tick": %d}`+"\n", i), nil); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// publish publishes as programs do.
func (b *broker) publish(ctx context.Context, queue, id, body string, headers amqp.Table) error {
	return b.ch.PublishWithContext(ctx, "", queue, true, false, amqp.Publishing{
		MessageId: id, Body: []byte(body), Headers: headers, ContentType: "application/json", DeliveryMode: amqp.Persistent,
	})
}
