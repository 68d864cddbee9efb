package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/fleet"
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
	if len(out.counts) == 0 || out.severity["publishing"] != consumer.SeverityOK {
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
	for _, f := range clocks(answers, time.Now()) {
		out.add(f)
	}
	for _, q := range out.counts {
		if !strings.HasSuffix(q.Name, ".dead") {
			checkConsumed(ctx, a, c, q, answers, out)
			if err == nil {
				checkOthers(q, answers, out)
			}
		}
	}
}

// clockMayDiffer is by how much clocks may differ: an answer takes its time, too.
const clockMayDiffer = 30 * time.Second

// clocks says of which daemons the clock is not as this machine's.
func clocks(answers []fleet.Answer, now time.Time) (out []consumer.Finding) {
	for _, an := range answers {
		if an.Status == nil || an.Status.At.IsZero() {
			continue
		}
		ahead, than := an.Status.At.Sub(now), "ahead of"
		if ahead < 0 {
			ahead, than = -ahead, "behind"
		}
		if ahead < clockMayDiffer {
			continue
		}
		out = append(out, consumer.Finding{
			Severity: consumer.SeverityWarning, What: "clock of " + an.Daemon.Name(), Text: fmt.Sprintf("%v %s this machine's", ahead.Round(time.Second), than),
			Why:  "schedules fire, delays end and dead letters are dated by it",
			Cure: "timedatectl on both machines says which is wrong; timedatectl set-ntp true",
		})
	}
	return out
}

// askFleet asks the daemons how they are.
func askFleet(ctx context.Context, a App, cfg *settings.Config) ([]fleet.Answer, *fleet.Client, error) {
	c, err := fleet.Dial(ctx, a.Name, cfg.Consumer.User, cfg.Consumer.Nodes)
	if err != nil {
		return nil, nil, err
	}
	const atMost = 1500 * time.Millisecond
	answers, err := c.Ask(ctx, fleet.Request{Verb: fleet.VerbStatus}, 0, atMost)
	if errors.Is(err, fleet.ErrNobody) {
		err = nil
	}
	return answers, c, err
}

// checkConsumed says whether a queue is paused, or has nobody who consumes it.
func checkConsumed(ctx context.Context, a App, c *fleet.Client, q consumer.Counts, answers []fleet.Answer, out *findings) {
	paused, known := pauseOf(q.Name, answers)
	if !known && c != nil && q.Consumers == 0 { // the broker logs a look at a pause that is not there
		paused, _ = c.Paused(ctx, q.Name)
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
