// Package replies says where the results of messages may go.
package replies

import (
	"fmt"
	"path"
	"strings"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Policy says where the results of one queue's messages may go. Without it
// whoever may write to the queue could have Warren write anywhere.
type Policy struct {
	patterns []string // of the queues that are allowed; none: all but those denied
	denied   map[string]bool
	variable string
}

// NewPolicy makes the policy of a queue, where these are worked. Errors name its variable
// with the prefix.
func NewPolicy(patterns, worked []string, envPrefix string) Policy {
	p := Policy{patterns: patterns, denied: make(map[string]bool), variable: envPrefix + "REPLY_TO"}
	for _, name := range worked {
		p.denied[name] = true
	}
	return p
}

// Check returns why no result may be published to the queue of that name, if it may not.
// No name asks for none.
func (p Policy) Check(replyTo string) error {
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
