package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// ask asks one daemon.
func ask(t *testing.T, o *fleet.Client, r fleet.Request) fleet.Answer {
	t.Helper()
	answers, err := o.Ask(t.Context(), r, 1, 2*time.Minute)
	if err != nil || len(answers) != 1 {
		t.Fatalf("%s: got %d answers and error %v, want one", r.Verb, len(answers), err)
	}
	return answers[0]
}

func untilEnded(ctx context.Context, _ Delivery, _ *Scope) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestCancelEndsAnAttemptForGood(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	causes := make(chan error, 1)
	r := run(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
		if d.MessageID != "stuck" {
			return nil
		}
		err := untilEnded(ctx, d, s)
		causes <- err
		return fmt.Errorf("interrupted: %w", ErrDatabase) // what it makes of that does not count
	})})
	o := operatorOf(t, v.URL)
	v.Publish(t, "emails", amqp.Publishing{MessageId: "stuck"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status().Queues[0].InFlight == 1 }, "it is being worked")
	q := ask(t, o, fleet.Request{Verb: fleet.VerbStatus, Attempts: 10}).Status.Queues[0]
	if len(q.Attempts) != 1 || q.Attempts[0].MessageID != "stuck" || q.Attempts[0].Attempt != 1 || time.Since(q.Attempts[0].Began) > time.Hour || q.InFlight != 1 {
		t.Errorf("the status has %+v, want the attempt", q)
	}
	if a := ask(t, o, fleet.Request{Verb: fleet.VerbCancel, MessageID: "other"}); a.Done != 0 || a.Error != "" {
		t.Errorf("cancel another one: got %+v, want that none was", a)
	}
	if a := ask(t, o, fleet.Request{Verb: fleet.VerbCancel, MessageID: "stuck", Queue: "emails", Why: "hangs"}); a.Done != 1 || a.Error != "" {
		t.Errorf("cancel: got %+v, want one done", a)
	}
	by := "cancelled by guest (" + fleet.Host() + "): hangs"
	if cause := <-causes; !errors.Is(cause, context.Canceled) {
		t.Errorf("the context has ended because of %v, want that it was cancelled", cause)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "emails.dead") == 1 && r.Status().Queues[0].InFlight == 0 }, "it is dead-lettered, and the attempt has ended")
	dead := v.Drain(t, "emails.dead")
	if len(dead) != 1 || dead[0].Headers["x-warren-reason"] != "cancelled" || !strings.HasPrefix(fmt.Sprint(dead[0].Headers["x-warren-error"]), by+" (interrupted: ") {
		t.Fatalf("got the dead letters %+v, want one with the reason cancelled, and by whom", dead)
	}
	q = ask(t, o, fleet.Request{Verb: fleet.VerbStatus, Failures: 5}).Status.Queues[0]
	if len(q.Failures) != 1 || q.Failures[0].MessageID != "stuck" || q.Failures[0].Verdict != "dead" || q.Counts["dead"] != 1 {
		t.Errorf("the status has %+v, want the failure", q)
	}
}

// A daemon that is stopping hears what is asked until its work has ended.
func TestCancelWhileStopping(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	r := runLong(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(untilEnded)})
	v.Publish(t, "emails", amqp.Publishing{MessageId: "stuck"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status().Queues[0].InFlight == 1 }, "it is being worked")
	o := operatorOf(t, v.URL)
	r.stop()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Consumers(t, "emails") == 0 || r.Status().Queues[0].Reason != "" }, "it is stopping")
	if a := ask(t, o, fleet.Request{Verb: fleet.VerbCancel, MessageID: "stuck"}); a.Done != 1 {
		t.Errorf("cancel: got %+v, want one done", a)
	}
	if took, err := r.end(); err != nil || took > rabbittest.Soon {
		t.Errorf("it ended after %v: %v", took, err)
	}
	if n := v.Ready(t, "emails.dead"); n != 1 {
		t.Errorf("%d dead letters, want one", n)
	}
}

func TestQuietAndWork(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	release := make(chan struct{})
	r := run(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { <-release; return nil })})
	o := operatorOf(t, v.URL)
	v.Publish(t, "emails", amqp.Publishing{})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status().Queues[0].InFlight == 1 }, "it is being worked")
	if a := ask(t, o, fleet.Request{Verb: fleet.VerbQuiet, Daemons: []string{fleet.Host()}, Why: "deploy"}); a.Done != 1 {
		t.Errorf("quiet: got %+v", a)
	}
	publishNumbered(t, v, "emails", 5) // those that are still handed out come back
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "emails") == 5 && v.Unacked(t, "emails") == 1 }, "it takes no more")
	close(release)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "emails") == 0 }, "what was in flight is finished")
	v.CloseConnections(t, "maintenance")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.log.String(), "msg=connected") >= 2 }, "it connects anew")
	o = operatorOf(t, v.URL)
	var s *fleet.Status
	rabbittest.Eventually(t, 20*time.Second, func() bool { // it may listen a moment later
		answers, err := o.Ask(t.Context(), fleet.Request{Verb: fleet.VerbStatus}, 1, 2*time.Second)
		if err != nil || len(answers) != 1 {
			return false
		}
		s = answers[0].Status
		return r.Status().Queues[0].Reason == ""
	}, "it answers again, and nothing is wrong with the queue")
	if s.Quiet == nil || s.Quiet.Why != "deploy" || v.Ready(t, "emails") != 5 {
		t.Errorf("the status is %+v with %d messages, want quiet for the deploy, and 5", s, v.Ready(t, "emails"))
	}
	ask(t, o, fleet.Request{Verb: fleet.VerbWork})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "emails") == 0 && v.Consumers(t, "emails") == 1 }, "it works again")
}

func TestLevelOfTheLogForAWhile(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	level := new(slog.LevelVar)
	r := runConfig(t, Config{Nodes: []string{v.URL}, LogLevel: level, Queues: []Queue{{Name: "emails", Processor: ProcessorFunc(untilEnded)}}}, nil)
	o := operatorOf(t, v.URL)
	for _, wrong := range []fleet.Request{
		{Verb: fleet.VerbLevel, Level: "loud", ForMillis: 1000}, {Verb: fleet.VerbLevel, Level: "debug"},
		{Verb: fleet.VerbLevel, Level: "debug", ForMillis: 1 << 40}, {Verb: fleet.VerbLevel, Level: "error+99", ForMillis: 1000},
	} {
		if a := ask(t, o, wrong); a.Error == "" || level.Level() != slog.LevelInfo {
			t.Errorf("%+v: got %+v, want an error", wrong, a)
		}
	}
	if a := ask(t, o, fleet.Request{Verb: fleet.VerbLevel, Level: "debug", ForMillis: time.Hour.Milliseconds()}); a.Error != "" || level.Level() != slog.LevelDebug {
		t.Errorf("got %+v and the level %v, want debug", a, level.Level())
	}
	ask(t, o, fleet.Request{Verb: fleet.VerbLevel, Level: "error", ForMillis: 50})
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		return level.Level() == slog.LevelInfo && contains(r.log, `msg="the log is of its usual level again" log_level=INFO`)
	}, "it is the usual one again, and the log says so")
	if !contains(r.log, `msg="the level of the log is changed for a while" log_level=ERROR`) {
		t.Error("the log does not say that it was changed")
	}
}

// A status that is wanted for a while is sent every two seconds, and to nobody who is gone.
func TestStatusForAWhile(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	r := run(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(untilEnded)})
	ctx, cancel := context.WithCancel(t.Context())
	reports := 0
	err := operatorOf(t, v.URL).Each(ctx, fleet.Request{Verb: fleet.VerbStatus, ForMillis: time.Hour.Milliseconds()}, time.Minute, func(a fleet.Answer) {
		if reports++; reports == 3 {
			cancel()
		}
	}, nil)
	if !errors.Is(err, context.Canceled) || reports < 3 { // one may have been on its way
		t.Errorf("got %d reports and error %v, want three", reports, err)
	}
	if a := ask(t, operatorOf(t, v.URL), fleet.Request{Verb: "dance"}); !strings.Contains(a.Error, `does not know the verb "dance"`) {
		t.Errorf("a verb of a later version: got %+v", a)
	}
	_ = r
}

// Nothing that is published to the exchange harms the daemon, and it answers nowhere but
// to those who have asked.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	r := run(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })})
	stranger, err := amqp.Dial(v.AddUser(t, "eve", "secret", ".*", ".*", ".*"))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	theirs, err := stranger.Channel()
	if err != nil {
		t.Fatal(err)
	}
	v.Declare(t, "payments", nil)
	v.Declare(t, "warren.reply.mine", nil)
	send := func(ch *amqp.Channel, m amqp.Publishing) {
		t.Helper()
		if err := ch.PublishWithContext(t.Context(), fleet.Exchange, "", false, false, m); err != nil {
			t.Fatal(err)
		}
	}
	ours := v.Channel(t)
	cancel, quiet := []byte(`{"verb":"cancel","message_id":"m"}`), []byte(`{"verb":"quiet"}`)
	for range 300 {
		send(theirs, amqp.Publishing{UserId: "eve", Body: quiet, ReplyTo: "warren.reply.mine"})
		send(theirs, amqp.Publishing{Body: cancel, ReplyTo: "warren.reply.mine"})
	}
	send(theirs, amqp.Publishing{UserId: "eve", Body: bytes.Repeat([]byte("x"), 1<<20)})
	send(ours, amqp.Publishing{UserId: "guest", Body: bytes.Repeat([]byte("["), 1<<20), ReplyTo: "warren.reply.mine"})
	send(ours, amqp.Publishing{UserId: "guest", Body: bytes.Repeat([]byte("["), 16<<10), ReplyTo: "warren.reply.mine"})
	send(ours, amqp.Publishing{UserId: "guest", Body: []byte(`{"verb":["status"],"daemons":7}`), ReplyTo: "warren.reply.mine"})
	send(ours, amqp.Publishing{UserId: "guest", Body: []byte(`{"verb":"status"}`), ReplyTo: "payments"})
	send(ours, amqp.Publishing{UserId: "guest", Body: []byte(`{"verb":"status","attempts":2000000000,"failures":-5}`)})
	send(ours, amqp.Publishing{UserId: "guest", Body: []byte(`{"verb":"status","new":{"field":1}}`), ReplyTo: "warren.reply.gone"})
	v.Publish(t, "emails", amqp.Publishing{})
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		answers, err := operatorOf(t, v.URL).Ask(t.Context(), fleet.Request{Verb: fleet.VerbStatus}, 1, 5*time.Second)
		return err == nil && len(answers) == 1 && answers[0].Status.Quiet == nil && answers[0].Status.Queues[0].Counts["ack"] == 1
	}, "the daemon works and answers")
	for _, queue := range []string{"payments", "warren.reply.mine"} {
		if n := v.Ready(t, queue); n != 0 {
			t.Errorf("%s has %d messages, want none", queue, n)
		}
	}
	if n := strings.Count(r.log.String(), "refused what somebody asks"); n == 0 || n > 60 || !contains(r.log, "user=eve verb=quiet") {
		t.Errorf("%d lines tell of what was refused, want some", n)
	}
}
