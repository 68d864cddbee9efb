package cli

import (
	"fmt"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/operator/filter"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type deadCommand struct {
	List   deadListCommand   `cmd:"" help:"List the dead letters of a queue, in its order; they stay where they are."`
	Groups deadGroupsCommand `cmd:"" help:"Put the dead letters of a queue into groups by their cause: the reason, and the error without numbers, ids, quoted texts and addresses."`
	Show   deadShowCommand   `cmd:"" help:"Show a dead letter whole: why it is one, its trace, properties, headers and body."`

	Replay  deadReplayCommand  `cmd:"" help:"Put dead letters back into the queue that they came from, to be tried as often as any other message."`
	Discard deadDiscardCommand `cmd:"" help:"Take dead letters away, into a file."`
	Export  deadExportCommand  `cmd:"" help:"Write dead letters down whole, a JSON object a line; they stay where they are."`
	Import  deadImportCommand  `cmd:"" help:"Put messages of an export or an archive into the dead letters of a queue."`
}

// letters say which dead letters are meant.
type letters struct {
	Queue  string `arg:"" help:"The work queue whose dead letters are meant."`
	Filter string `short:"f" placeholder:"FILTER" help:"Only those that match, such as 'reason = exhausted and age < 2h'; docs/dead-letters.md has the language."`
}

// selection reads which are meant.
func (l *letters) selection() (operator.Selection, error) {
	f, err := filter.Parse(l.Filter, operator.LetterFields)
	return operator.Selection{Filter: f}, err
}

// operator is the broker that the variables name.
func (a App) operator() (operator.Broker, error) {
	nodes, user, err := settings.Broker()
	return operator.Broker{Program: a.Name, User: user, Nodes: nodes}, err
}

// warnOfLimit tells of a delivery limit that looking comes near to.
func (a App) warnOfLimit(queue string, looked operator.Looked) {
	if looked.InVain > 0 {
		fmt.Fprintf(a.Err, "%s: the broker counts each look at %s.dead, %d by now, and drops what is over the queue's delivery limit, 20 unless it is set: "+
			"set it with rabbitmqctl set_policy (delivery-limit), as docs/dead-letters.md says\n", a.Name, queue, looked.InVain)
	}
}
