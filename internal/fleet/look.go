package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A sight is how things are at a moment.
type sight struct {
	at                    time.Time
	connections, channels int
	packets, opened       int64 // since the node started
	broker, daemons       usage
}

// usage is what processes have used.
type usage struct {
	cpu    time.Duration
	memory int64 // bytes
}

// counters are what clients have sent, and how many channels they have opened.
const counters = `begin
	Packets = [P || Pid <- rabbit_networking:connections(),
		[{recv_cnt, P}] <- [catch rabbit_networking:connection_info(Pid, [recv_cnt])]],
	[{_, _, _, Opened, _, _, _, _}] = ets:lookup(connection_churn_metrics, node()),
	{lists:sum(Packets), Opened}
	end`

func look(node *rabbittest.Node, daemons []*daemon) (s sight, err error) {
	if s.connections, s.channels, err = node.Connections("/"); err != nil {
		return s, err
	}
	value, err := node.Eval(counters)
	if err != nil {
		return s, err
	}
	if _, err := fmt.Sscanf(value, "{%d, %d}", &s.packets, &s.opened); err != nil {
		return s, fmt.Errorf("counters of the node: %w: %s", err, value)
	}
	s.at = time.Now()
	if s.broker, err = used(node.PID()); err != nil {
		return s, err
	}
	for _, d := range daemons {
		u, err := used(d.command.Process.Pid)
		if err != nil {
			return s, err
		}
		s.daemons.cpu += u.cpu
		s.daemons.memory += u.memory
	}
	return s, nil
}

// tick is the unit of times in /proc; it is the same on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// used is what the kernel says of a process; see proc(5).
func used(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The second field is a name that may have any character in it, in brackets.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, system, resident = 14 - 3, 15 - 3, 24 - 3
	for _, i := range []int{user, system} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(ticks) * tick
	}
	pages, err := strconv.ParseInt(fields[resident], 10, 64)
	u.memory = pages * int64(os.Getpagesize())
	return u, err
}
