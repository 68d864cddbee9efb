package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

// lookAt is how many messages of a queue check looks at, and shownCauses how many causes
// it names.
const (
	lookAt      = 200
	shownCauses = 3
)

// look says why dead letters are there, and since when, and what waits for when.
func look(ctx context.Context, a App, cfg *settings.Config, out *findings) {
	b := operator.Broker{Program: a.Name, User: cfg.Consumer.User, Nodes: cfg.Consumer.Nodes}
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, fmt.Errorf("no answer within %v", lookWithin))
	defer cancel()
	for _, q := range out.counts {
		queue, isDead := strings.CutSuffix(q.Name, ".dead")
		if !isDead {
			lookAtWaits(ctx, b, q.Name, out)
		} else if q.Messages > 0 {
			lookAtLetters(ctx, b, queue, out)
		}
	}
}

const lookWithin = 30 * time.Second

func lookAtLetters(ctx context.Context, b operator.Broker, queue string, out *findings) {
	what := "causes of the dead letters of " + queue
	groups, looked, err := b.Groups(ctx, queue, operator.Selection{Most: lookAt})
	if err != nil {
		out.add(notLookedAt(what, err))
		return
	}
	texts := make([]string, 0, shownCauses+1)
	for i, g := range groups {
		if i == shownCauses {
			texts = append(texts, fmt.Sprintf("%d more", len(groups)-i))
			break
		}
		texts = append(texts, fmt.Sprintf("%d %s since %s (%s)", g.Count, g.Reason, since(g.First), fit(g.Error, defaultWidth)))
	}
	out.add(consumer.Finding{Severity: consumer.SeverityNote, What: what, Text: fmt.Sprintf("of the first %d: %s", looked.Matched, strings.Join(texts, ", "))})
}

func lookAtWaits(ctx context.Context, b operator.Broker, queue string, out *findings) {
	what := "waits of " + queue
	found, err := b.Waiting(ctx, []string{queue}, operator.Selection{}, lookAt)
	if err != nil {
		out.add(notLookedAt(what, err))
		return
	}
	if len(found.Messages) == 0 {
		return
	}
	next, last := found.Messages[0], found.Messages[len(found.Messages)-1]
	text, failed := fmt.Sprintf("of %d looked at, the next is due in %s, the last in %s", len(found.Messages), legible.Short(time.Until(next.Due)), legible.Short(time.Until(last.Due))), ""
	for _, m := range found.Messages {
		if m.Error != "" {
			failed = fmt.Sprintf("; %s has been tried %d times (%s)", m.MessageID, m.Attempts, fit(m.Error, defaultWidth))
			break
		}
	}
	out.add(consumer.Finding{Severity: consumer.SeverityNote, What: what, Text: text + failed})
}

func notLookedAt(what string, err error) consumer.Finding {
	return consumer.Finding{
		Severity: consumer.SeverityNote, What: what, Text: "not looked at: " + err.Error(),
		Why: "what they are is not known", Cure: "docs/dead-letters.md has the permissions for it",
	}
}
