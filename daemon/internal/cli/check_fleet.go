package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

// fleetWithin bounds what is asked of the daemons: a broker with an alarm answers nothing.
const fleetWithin = 10 * time.Second

// checkFleet says why nothing happens: who consumes, what is paused, what waits, and what
// the daemons say of themselves.
func checkFleet(ctx context.Context, a App, cfg *settings.Config, out *findings) {
	for _, q := range out.counts {
		if queue, isDead := strings.CutSuffix(q.Name, ".dead"); isDead && q.Messages > 0 {
			out.add(consumer.Finding{
				Severity: consumer.SeverityWarning, What: "dead letters of " + queue, Text: plural(q.Messages, "message", "messages"),
				Why:  "the work of each has not been done, and nobody tries it again",
				Cure: fmt.Sprintf("%s dead groups %s shows why; then %[1]s dead replay %[2]s, or discard", a.Name, queue),
			})
		}
	}
	if out.severity["publishing"] != consumer.SeverityOK {
		return // said already; and what cannot be published cannot be asked
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fleetWithin, fmt.Errorf("no answer within %v", fleetWithin))
	defer cancel()
	answers, c, err := askFleet(ctx, a, cfg)
	if c != nil {
		defer c.Close()
	}
	if err != nil {
		out.add(consumer.Finding{
			Severity: consumer.SeverityNote, What: "daemons", Text: "not asked: " + err.Error(),
			Why: "what is paused, quiet or braked is not known", Cure: "docs/security.md has the permissions for it",
		})
	} else {
		out.add(consumer.Finding{Severity: consumer.SeverityOK, What: "daemons", Text: plural(len(answers), "has answered", "have answered")})
	}
	for _, note := range fleet.Notes(answers, nil, time.Now()) {
		out.add(consumer.Finding{
			Severity: consumer.SeverityWarning, What: "daemons", Text: note,
			Why: "it is not as the others are, or does not what it is there for", Cure: a.Name + " ps shows them all",
		})
	}
	checkClocks(ctx, c, answers, out)
	out.asked, out.here = err == nil, isHere(cfg, answers)
	if err == nil {
		checkSchedules(a, cfg, answers, out)
	}
	for _, q := range out.counts {
		if !strings.HasSuffix(q.Name, ".dead") {
			checkConsumed(ctx, a, c, q, answers, out)
			if err == nil {
				checkOthers(q, answers, out)
				checkFailures(a, q.Name, answers, out)
			}
		}
	}
}

// isHere tells whether one of the daemons is on this machine, and works one of the queues.
func isHere(cfg *settings.Config, answers []fleet.Answer) bool {
	for _, an := range answers {
		for i := 0; an.Status != nil && an.Daemon.Host == fleet.Host() && i < len(an.Status.Queues); i++ {
			if slices.Contains(cfg.QueueNames(), an.Status.Queues[i].Queue) {
				return true
			}
		}
	}
	return false
}

// clockMayDiffer is by how much clocks may differ: an answer takes its time, too.
const clockMayDiffer = 30 * time.Second

// checkClocks compares the clocks of this machine and the daemons with the broker's or, if that is
// not to be had, with each other.
func checkClocks(ctx context.Context, c *fleet.Client, answers []fleet.Answer, out *findings) {
	now, than := time.Now(), "this machine's"
	if c != nil {
		asked := time.Now()
		of, err := c.BrokerTime(ctx)
		if err == nil {
			now, than = of.Add(time.Since(asked)), "the broker's"
			if f, wrong := clockOf("this machine", time.Now(), now, than); wrong {
				out.add(f)
			} else {
				out.add(consumer.Finding{Severity: consumer.SeverityOK, What: f.What, Text: "as the broker's"})
			}
		} else {
			out.add(consumer.Finding{
				Severity: consumer.SeverityNote, What: "clock of the broker", Text: "not known: " + err.Error(),
				Why: "the clocks of the daemons are compared with this machine's instead", Cure: "docs/security.md has the permissions of an operator",
			})
		}
	}
	for _, an := range answers {
		if an.Status == nil || an.Status.At.IsZero() {
			continue
		}
		if f, wrong := clockOf(an.Daemon.Name(), an.Status.At, now, than); wrong {
			out.add(f)
		}
	}
}

// clockOf says how far a clock that shows at is from another one, and whether that is too far.
func clockOf(who string, at, now time.Time, than string) (f consumer.Finding, wrong bool) {
	ahead, way := at.Sub(now), "ahead of"
	if ahead < 0 {
		ahead, way = -ahead, "behind"
	}
	return consumer.Finding{
		Severity: consumer.SeverityWarning, What: "clock of " + who, Text: fmt.Sprintf("%v %s %s", ahead.Round(time.Second), way, than),
		Why:  "schedules fire, delays end and dead letters are dated by it",
		Cure: "timedatectl on both machines says which is wrong; timedatectl set-ntp true",
	}, ahead >= clockMayDiffer
}

// checkSchedules says who fires each schedule, and when.
func checkSchedules(a App, cfg *settings.Config, answers []fleet.Answer, out *findings) {
	for _, s := range cfg.Consumer.Schedules {
		what, having := "schedule "+s.Name, 0
		for _, an := range answers {
			for i := 0; an.Status != nil && i < len(an.Status.Schedules); i++ {
				of := &an.Status.Schedules[i]
				if of.Schedule != s.Name {
					continue
				}
				if having++; !of.Leading {
					continue
				}
				text := an.Daemon.Name() + " fires it"
				if !of.Last.IsZero() {
					text += ", the last time for " + of.Last.Format(time.RFC3339)
				}
				if !of.Next.IsZero() {
					text += ", the next for " + of.Next.Format(time.RFC3339)
				}
				out.add(consumer.Finding{Severity: consumer.SeverityOK, What: what, Text: text})
			}
		}
		if having == 0 {
			out.add(consumer.Finding{
				Severity: consumer.SeverityWarning, What: what, Text: "no daemon that has answered has it",
				Why: "nobody fires it until one does", Cure: "systemctl start " + a.Name + ", on a machine whose WARREN_SCHEDULES has it",
			})
		}
	}
}

// askedAttempts is how many attempts of each queue the daemons are asked for.
const askedAttempts = 20

// askFleet asks the daemons how they are.
func askFleet(ctx context.Context, a App, cfg *settings.Config) ([]fleet.Answer, *fleet.Client, error) {
	c, err := fleet.Dial(ctx, a.Name, cfg.Consumer.User, cfg.Consumer.Nodes)
	if err != nil {
		return nil, nil, err
	}
	const atMost = 1500 * time.Millisecond
	answers, err := c.Ask(ctx, fleet.Request{Verb: fleet.VerbStatus, Attempts: askedAttempts, Failures: 1}, 0, atMost)
	if errors.Is(err, fleet.ErrNobody) {
		err = nil
	}
	return answers, c, err
}

// checkConsumed says whether a queue is paused, or has nobody who consumes it.
func checkConsumed(ctx context.Context, a App, c *fleet.Client, q consumer.Counts, answers []fleet.Answer, out *findings) {
	paused, known := pauseOf(q.Name, answers)
	if !known && c != nil && q.Consumers == 0 { // the broker logs a look at a pause that is not there
		var err error
		if paused, err = c.Paused(ctx, q.Name); err != nil {
			out.add(consumer.Finding{
				Severity: consumer.SeverityWarning, What: "pause of " + q.Name, Text: "cannot be looked at: " + err.Error(),
				Why: "a daemon that cannot look either goes on working a queue that is paused", Cure: "docs/queues.md lists the permissions that a daemon needs",
			})
		}
	}
	what := "consumers of " + q.Name
	ready := plural(q.Messages, "message", "messages") + " ready"
	switch {
	case paused != nil:
		out.add(consumer.Finding{
			Severity: consumer.SeverityWarning, What: what, Text: fmt.Sprintf("paused %s; %s", paused.Text(time.Now()), ready),
			Why: "no daemon takes a message from it until it is resumed", Cure: fmt.Sprintf("%s resume %s", a.Name, q.Name),
		})
	case q.Consumers == 0 && q.Messages > 0:
		out.add(consumer.Finding{
			Severity: consumer.SeverityWarning, What: what, Text: "there are none, and " + ready,
			Why: "nothing is done until a daemon consumes it", Cure: "systemctl start " + a.Name + ", on a machine whose WARREN_QUEUES has it",
		})
	default:
		if busy := fleet.BusyWith(answers, q.Name, q.Messages); busy != "" {
			out.add(consumer.Finding{
				Severity: consumer.SeverityNote, What: "work of " + q.Name, Text: busy,
				Why: "the queue grows, or takes long to be worked off", Cure: "add daemons, or raise CONCURRENCY where the work waits for other systems; " + a.Name + " top shows the rates",
			})
		}
	}
}

// checkOthers says that a queue has consumers that are no daemons which answer.
func checkOthers(q consumer.Counts, answers []fleet.Answer, out *findings) {
	working := 0
	for _, an := range answers {
		for i := 0; an.Status != nil && i < len(an.Status.Queues); i++ {
			if q.Name == an.Status.Queues[i].Queue {
				working++
			}
		}
	}
	if q.Consumers <= working {
		return
	}
	severity := consumer.SeverityNote
	if working == 0 {
		severity = consumer.SeverityWarning
	}
	out.add(consumer.Finding{
		Severity: severity, What: "consumers of " + q.Name,
		Text: fmt.Sprintf("%d, of which %d answer: the others are other programs, older daemons, or obey somebody else", q.Consumers, working),
		Why:  "they get a share of the messages; one that consumes exclusively, or is the single active consumer, gets all of them",
		Cure: "rabbitmqctl list_consumers shows whose they are",
	})
}

// recently is how old a failure may be that check tells of.
const recently = time.Hour

// checkFailures tells of the last attempt at a message of the queue that has failed.
func checkFailures(a App, queue string, answers []fleet.Answer, out *findings) {
	var last fleet.Failure
	var by fleet.Answer
	for _, an := range answers {
		for i := 0; an.Status != nil && i < len(an.Status.Queues); i++ {
			q := &an.Status.Queues[i]
			if q.Queue == queue && len(q.Failures) > 0 && q.Failures[0].At.After(last.At) {
				last, by = q.Failures[0], an
			}
		}
	}
	if by.Status == nil || by.Status.At.Sub(last.At) > recently {
		return
	}
	out.add(consumer.Finding{
		Severity: consumer.SeverityNote, What: "failures of " + queue,
		Text: fmt.Sprintf("the last %s ago on %s, attempt %d at %s (%s): %s", legible.Short(max(0, by.Status.At.Sub(last.At))), by.Daemon.Name(), last.Attempt, last.MessageID, last.Verdict, last.Error),
		Why:  "each failed attempt is made again later, or the message is dead-lettered", Cure: a.Name + " top " + queue + " shows more",
	})
}

// pauseOf is the pause of a queue as daemons know it; known is false if none of them has
// that queue.
func pauseOf(queue string, answers []fleet.Answer) (paused *fleet.Pause, known bool) {
	for _, an := range answers {
		if an.Status == nil {
			continue
		}
		for _, q := range an.Status.Queues {
			if q.Queue == queue {
				known = true
				if q.Paused != nil {
					return q.Paused, true
				}
			}
		}
	}
	return nil, known
}
