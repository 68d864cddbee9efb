package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

// managementWithin bounds what is asked of the management plugin, and maxManagement what it
// answers to one question.
const (
	managementWithin = 10 * time.Second
	maxManagement    = 4 << 20
)

// A management is the HTTP API of the management plugin.
type management struct {
	base           *url.URL // without who asks
	user, password string
}

// get reads what is at a path, whose parts are escaped.
func (m management) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(m.base.String(), "/")+"/api/"+path, http.NoBody)
	if err != nil {
		return err
	}
	request.SetBasicAuth(m.user, m.password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	switch response.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(io.LimitReader(response.Body, maxManagement)).Decode(into)
	case http.StatusUnauthorized:
		return errors.New("it refuses the user; check the password, and rabbitmqctl set_user_tags USER monitoring")
	case http.StatusNotFound:
		return errNotThere
	}
	return fmt.Errorf("it answered %s", response.Status)
}

var errNotThere = errors.New("it is not there")

// managedQueue is what the plugin says of a queue.
type managedQueue struct {
	Type           string          `json:"type"`
	Policy         string          `json:"policy"`
	OperatorPolicy string          `json:"operator_policy"`
	Definition     json.RawMessage `json:"effective_policy_definition"` // an object, or an empty array
	Members        []string        `json:"members"`
	Online         []string        `json:"online"`
}

type managedNode struct {
	Name        string `json:"name"`
	Running     bool   `json:"running"`
	MemoryAlarm bool   `json:"mem_alarm"`
	DiskAlarm   bool   `json:"disk_free_alarm"`
}

// checkManagement says what AMQP does not tell, if there is somebody to ask: alarms of each
// node, the policies of queues, and their replicas.
func checkManagement(ctx context.Context, cfg *settings.Config, out *findings) {
	where, err := settings.ManagementURL()
	if err != nil || where == "" {
		return // what is wrong with it has been said when the configuration was read
	}
	base, err := url.Parse(where)
	if err != nil {
		return
	}
	m := management{base: base, user: base.User.Username()}
	m.password, _ = base.User.Password()
	base.User = nil
	ctx, cancel := context.WithTimeoutCause(ctx, managementWithin, fmt.Errorf("no answer within %v", managementWithin))
	defer cancel()

	var nodes []managedNode
	if err := m.get(ctx, "nodes", &nodes); err != nil {
		out.add(consumer.Finding{
			Severity: consumer.SeverityWarning, What: "management plugin", Text: "not asked: " + err.Error(),
			Why: "policies and replicas are not known", Cure: "correct WARREN_MANAGEMENT_URL, or leave it out",
		})
		return
	}
	running := 0
	for _, n := range nodes {
		if n.Running {
			running++
		}
		for _, is := range []struct {
			true bool
			text string
		}{{!n.Running, "does not run"}, {n.MemoryAlarm, "has a memory alarm"}, {n.DiskAlarm, "has a disk alarm"}} {
			if is.true {
				out.add(consumer.Finding{
					Severity: consumer.SeverityWarning, What: "node " + n.Name, Text: is.text,
					Why: "with an alarm no node takes messages; without a majority of its nodes a queue does nothing", Cure: "rabbitmq-diagnostics status there says more",
				})
			}
		}
	}
	out.add(consumer.Finding{Severity: consumer.SeverityOK, What: "cluster", Text: fmt.Sprintf("%d of %d nodes run", running, len(nodes))})

	vhost := operator.Broker{Nodes: cfg.Consumer.Nodes}.Vhost()
	for _, q := range out.counts {
		var is managedQueue
		if err := m.get(ctx, "queues/"+url.PathEscape(vhost)+"/"+url.PathEscape(q.Name), &is); err != nil {
			if !errors.Is(err, errNotThere) {
				out.add(consumer.Finding{Severity: consumer.SeverityNote, What: "policies of " + q.Name, Text: "not known: " + err.Error()})
			}
			continue
		}
		for _, f := range is.findings(q.Name, len(nodes)) {
			out.add(f)
		}
	}
}

// replicasWanted is how many members a quorum queue has where there are nodes enough.
const replicasWanted = 3

// findings are what stands out of a queue in a cluster of so many nodes.
func (m managedQueue) findings(queue string, nodes int) (out []consumer.Finding) {
	if want := min(nodes, replicasWanted); m.Type == "quorum" && len(m.Members) < want {
		out = append(out, consumer.Finding{
			Severity: consumer.SeverityWarning, What: "replicas of " + queue, Text: fmt.Sprintf("%d, in a cluster of %d nodes", len(m.Members), nodes),
			Why: "its messages are away, or lost, with the nodes that it is on", Cure: "rabbitmq-queues grow NODE all --queue-pattern '^" + queue + "$', for each node without one",
		})
	} else if m.Type == "quorum" && len(m.Online) < len(m.Members) {
		out = append(out, consumer.Finding{
			Severity: consumer.SeverityWarning, What: "replicas of " + queue, Text: fmt.Sprintf("%d of %d are online", len(m.Online), len(m.Members)),
			Why: "without a majority of them nothing is taken from it, nor put into it", Cure: "start the nodes of the others",
		})
	}
	var definition map[string]any
	if json.Unmarshal(m.Definition, &definition) != nil || len(definition) == 0 {
		return out
	}
	f := consumer.Finding{Severity: consumer.SeverityNote, What: "policies of " + queue}
	var has []string
	for _, key := range slices.Sorted(maps.Keys(definition)) {
		has = append(has, fmt.Sprintf("%s %v", key, definition[key]))
		// The lower one counts, of the queue's own arguments and of all policies.
		switch limit, _ := definition[key].(float64); {
		case key == "message-ttl", key == "expires", key == "delivery-limit" && limit < deliveryLimit:
			f.Severity = consumer.SeverityWarning
			f.Why = "messages that take longer, or are handed out more often, are dead-lettered, and dropped from the dead letters; an unused queue is deleted"
		}
	}
	var names []string
	for _, name := range []string{m.Policy, m.OperatorPolicy} {
		if name != "" {
			names = append(names, name)
		}
	}
	f.Text = fmt.Sprintf("%s: %s", strings.Join(names, " and "), strings.Join(has, ", "))
	if f.Severity == consumer.SeverityWarning {
		f.Cure = "rabbitmqctl list_policies, and list_operator_policies, show them; clear_policy takes one away"
	}
	return append(out, f)
}

// deliveryLimit is what work queues are declared with; below, messages are given up before
// they are suspected of ending the process.
const deliveryLimit = 20
