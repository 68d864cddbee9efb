package consumer

import (
	"fmt"
	"path"
	"strings"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A replyPolicy says where the results of one queue's messages may go. Without it
// whoever may write to the queue could have Warren write anywhere.
type replyPolicy struct {
	patterns []string // of the queues that are allowed; none: all but those denied
	denied   map[string]bool
	variable string
}

// newReplyPolicy makes the policy of q, one of the queues that are worked.
func newReplyPolicy(q Queue, worked []Queue) replyPolicy {
	p := replyPolicy{patterns: q.ReplyTo, denied: make(map[string]bool), variable: q.EnvPrefix + "REPLY_TO"}
	for _, w := range worked {
		p.denied[w.Name] = true
	}
	return p
}

// check returns why no result may be published to the queue of that name, if it may not.
// No name asks for none.
func (p replyPolicy) check(replyTo string) error {
	switch {
	case replyTo == "":
		return nil
	case strings.HasPrefix(replyTo, broker.OwnPrefix):
		return fmt.Errorf("its reply-to is %.60q: names that begin with %s are for Warren's own queues", replyTo, broker.OwnPrefix)
	case len(p.patterns) == 0 && (p.denied[replyTo] || strings.HasSuffix(replyTo, ".dead")):
		return fmt.Errorf("its reply-to is %.60q, a queue that is worked or a dead-letter queue: to allow that, name it in %s", replyTo, p.variable)
	case len(p.patterns) == 0:
		return nil
	}
	for _, pattern := range p.patterns {
		if ok, err := path.Match(pattern, replyTo); ok && err == nil {
			return nil
		}
	}
	return fmt.Errorf("its reply-to is %.60q, which none of the patterns in %s allows", replyTo, p.variable)
}
