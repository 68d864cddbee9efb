package rabbittest

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Ctl runs rabbitmqctl on the node and returns what it printed. It takes one or
// two seconds, because each run starts an Erlang machine: see [Node.Eval].
func (n *Node) Ctl(args ...string) (string, error) {
	return n.run(n.commands.ctl, args, "")
}

// Eval evaluates Erlang expressions, separated by commas and without the final
// dot, in the node and returns the value of the last one as Erlang writes it. It
// takes a few milliseconds. It is an error if they do not parse, raise an
// exception, or take more than a minute.
func (n *Node) Eval(expressions string) (string, error) {
	kind := "-sname"
	if n.member != nil {
		kind = "-name"
	}
	args := []string{kind, n.Name(), "-r", "-timeout", "60", "-e"}
	out, err := n.run(n.commands.erlCall, args, expressions+".\n")
	// On a machine that is short of time the first handshake may run out of it.
	// Nothing has been evaluated then.
	for tries := 0; err != nil && tries < 25 && strings.Contains(err.Error(), "failed to connect"); tries++ {
		<-time.After(200 * time.Millisecond)
		out, err = n.run(n.commands.erlCall, args, expressions+".\n")
	}
	if err != nil {
		return "", err
	}
	value, ok := strings.CutPrefix(strings.TrimSpace(out), "{ok, ")
	if !ok {
		return "", fmt.Errorf("the node: %s", strings.TrimSpace(out))
	}
	return strings.TrimSuffix(value, "}"), nil
}

// passing is what a node says of a moment that will have passed: while it starts, has no time,
// or lost its write-ahead log. RabbitMQ 3.10 loses that, and all queues of the node theirs,
// where it deletes a quorum queue of whose messages it is just removing files.
var passing = regexp.MustCompile(`wal_down|timeout|timed out|noproc|nodedown|badrpc|not_started|` +
	`no_more_servers_to_try|cluster_not_formed|coordinator_unavailable|failed to connect|INTERNAL_ERROR`)

// patiently calls until that succeeds, or fails for a reason that does not pass by itself.
func (n *Node) patiently(call func() error) error {
	for deadline := time.Now().Add(patience); ; <-time.After(100 * time.Millisecond) {
		err := call()
		if err == nil || !passing.MatchString(err.Error()) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("for %v: %w; the end of the node's log:\n%s", patience, err, n.lastWords())
		}
	}
}

// ask evaluates expressions that may be evaluated twice.
func (n *Node) ask(format string, args ...any) (value string, err error) {
	err = n.patiently(func() error {
		value, err = n.Eval(fmt.Sprintf(format, args...))
		return err
	})
	return value, err
}

// do is as ask, for expressions of which the last must be ok.
func (n *Node) do(format string, args ...any) error {
	return n.patiently(func() error {
		value, err := n.Eval(fmt.Sprintf(format, args...))
		if err == nil && value != "ok" {
			err = fmt.Errorf("the node: got %s, want ok", value)
		}
		return err
	})
}

// run runs a program that talks to the node, and returns its output.
func (n *Node) run(program string, args []string, stdin string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	argv := n.member.in(program, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = n.dir, n.env(), strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)+stderr.String()))
	}
	return string(out), nil
}

// MemoryAlarm raises or clears the node's memory alarm. While it is raised the
// node sends connection.blocked to whoever publishes, and reads nothing more from
// them.
func (n *Node) MemoryAlarm(on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.alarmLocked(on)
}

func (n *Node) alarmLocked(on bool) error {
	if err := n.raise("memory", on); err != nil {
		return err
	}
	n.alarm = on
	return nil
}

// DiskAlarm raises or clears the node's alarm of free disk space, which does the same. Whoever
// raises it clears it.
func (n *Node) DiskAlarm(on bool) error { return n.raise("disk", on) }

// raise raises or clears the alarm of a resource, and has every connection know of it before
// what comes next: the alarm itself is only sent, and getting the list waits for it.
func (n *Node) raise(resource string, on bool) error {
	call := "clear_alarm({resource_limit, %s, node()})"
	if on {
		call = "set_alarm({{resource_limit, %s, node()}, []})"
	}
	return n.do("rabbit_alarm:"+call+", _ = rabbit_alarm:get_alarms(), ok", resource)
}

// CloseConnections makes the node close every connection to the vhost, or every
// connection there is if vhost is empty, with AMQP's CONNECTION_FORCED and the
// given reason. It returns how many it closed.
func (n *Node) CloseConnections(vhost, reason string) (int, error) {
	// One may end by itself between the two, or answer nothing for as long as a node of its
	// cluster is away.
	call := func(function string) string {
		return "rpc:call(node(), rabbit_networking, " + function + ", 2000)"
	}
	chosen := "true"
	if vhost != "" {
		chosen = fmt.Sprintf(call("connection_info, [Pid, [vhost]]")+" =:= [{vhost, %s}]", term(vhost))
	}
	value, err := n.ask(
		"length([Pid || Pid <- rabbit_networking:connections(), %s, "+call("close_connection, [Pid, binary_to_list(%s)]")+" =:= ok])",
		chosen, term(reason))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(value)
}

// Connections returns how many connections to the vhost there are, and how many channels
// on them. One that is just ending does not count.
func (n *Node) Connections(vhost string) (connections, channels int, err error) {
	value, err := n.ask(`begin
		Channels = [C || Pid <- rabbit_networking:connections(),
			[{vhost, V}, {channels, C}] <- [catch rabbit_networking:connection_info(Pid, [vhost, channels])], V =:= %s],
		{length(Channels), lists:sum(Channels)}
		end`, term(vhost))
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(value, "{%d, %d}", &connections, &channels); err != nil {
		return 0, 0, fmt.Errorf("connections to vhost %s: %w: %s", vhost, err, value)
	}
	return connections, channels, nil
}

// leader stops or restarts this node's member of a quorum queue, the only one that a
// queue has here.
func (n *Node) leader(act, vhost, queue string) error {
	return n.do(`begin {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(%s, queue, %s)),
		rabbit_quorum_queue = amqqueue:get_type(Q), ra:%s(quorum_queues, amqqueue:get_pid(Q)) end`, term(vhost), term(queue), act)
}

// suspendLeader suspends or resumes it.
func (n *Node) suspendLeader(act, vhost, queue string) error {
	return n.do(`begin {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(%s, queue, %s)),
		rabbit_quorum_queue = amqqueue:get_type(Q), sys:%s(amqqueue:get_pid(Q)) end`, term(vhost), term(queue), act)
}

// The names that the node's own log gives to whoever changed something.
const actor = `<<"rabbittest">>`

func (n *Node) addVhost(name string) error {
	return n.do("ok = rabbit_vhost:add(%s, %s), %s", term(name), actor, grant("guest", name, ".*", ".*", ".*"))
}

// deleteVhost deletes a vhost, if there still is one. What its queues have had removed of
// their messages until now is gone before they are: see passing.
func (n *Node) deleteVhost(name string) error {
	return n.do(`case rabbit_vhost:exists(%[1]s) of
		true ->
			catch [ra:leader_query(amqqueue:get_pid(Q), {erlang, is_map, []}, 1000) ||
				Q <- rabbit_amqqueue:list(%[1]s), amqqueue:get_type(Q) =:= rabbit_quorum_queue],
			catch ra_log_segment_writer:await(ra_log_segment_writer),
			rabbit_vhost:delete(%[1]s, %[2]s);
		false -> ok
		end`, term(name), actor)
}

func (n *Node) addUser(name, password, vhost, configure, write, read string) error {
	return n.do("ok = rabbit_auth_backend_internal:add_user(%s, %s, %s), %s",
		term(name), term(password), actor, grant(name, vhost, configure, write, read))
}

func (n *Node) deleteUser(name string) error {
	return n.do("rabbit_auth_backend_internal:delete_user(%s, %s)", term(name), actor)
}

func grant(user, vhost, configure, write, read string) string {
	return fmt.Sprintf("rabbit_auth_backend_internal:set_permissions(%s, %s, %s, %s, %s, %s)",
		term(user), term(vhost), term(configure), term(write), term(read), actor)
}

func (n *Node) setPolicy(vhost, name, pattern, definition, applyTo string) error {
	return n.do("rabbit_policy:parse_set(%s, %s, %s, %s, 0, %s, %s)",
		term(vhost), term(name), term(pattern), term(definition), term(applyTo), actor)
}

// counts returns what the queue itself says of its messages and consumers at this
// moment: the broker's statistics may be seconds old. There is no queue if ok is
// false.
func (n *Node) counts(vhost, queue string) (ready, unacked, consumers int, ok bool, err error) {
	// A queue that is just being declared has no leader yet: it counts as not there.
	value, err := n.ask(`case rabbit_amqqueue:lookup(rabbit_misc:r(%s, queue, %s)) of
		{error, not_found} -> none;
		{ok, Q} -> case amqqueue:get_type(Q) of
			rabbit_quorum_queue ->
				case ra:leader_query(amqqueue:get_pid(Q), {rabbit_fifo, overview, []}) of
					{ok, {_, #{num_ready_messages := Ready, num_checked_out := Unacked, num_consumers := Consumers}}, _} ->
						{Ready, Unacked, Consumers};
					{error, _} -> none
				end;
			_ ->
				[{_, Ready}, {_, Unacked}, {_, Consumers}] =
					rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged, consumers]),
				{Ready, Unacked, Consumers}
			end
		end`, term(vhost), term(queue))
	if err != nil || value == "none" {
		return 0, 0, 0, false, err
	}
	if _, err := fmt.Sscanf(value, "{%d, %d, %d}", &ready, &unacked, &consumers); err != nil {
		return 0, 0, 0, false, fmt.Errorf("counts of queue %s: %w: %s", queue, err, value)
	}
	return ready, unacked, consumers, true, nil
}

// term returns the Erlang term for the bytes of s, of which none needs quoting.
func term(s string) string {
	var b strings.Builder
	b.WriteString("<<")
	for i := range len(s) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(s[i])))
	}
	b.WriteString(">>")
	return b.String()
}
