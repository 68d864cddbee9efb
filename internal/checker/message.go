package main

import (
	"slices"
	"strings"
)

// A message is one that was published, or that somebody says was.
type message struct {
	key
	published int64 // zero: it never was
	confirmed bool
	waits     bool
	fate      string
	runs      []*attempt // in the order in which they began
	dead      bool
	deleted   bool
}

// A key is what a message is known by.
type key struct{ queue, id string }

// An attempt is one run of a message.
type attempt struct {
	number       int
	worker       string
	begun, ended int64 // ended is zero if nobody saw it end
	failed       bool
	exact        bool
}

func (m *message) isDone() bool {
	for _, a := range m.runs {
		if a.ended != 0 && !a.failed {
			return true
		}
	}
	return false
}

// moving is how long after somebody saw a message it may be on its way to where it waits,
// or to the dead letters: a network that is stalled may have it for as long as heartbeats
// take to be missed.
const moving = 30_000_000

// moves tells whether it may have been on such a way.
func (m *message) moves() bool {
	return m.waits || m.fate != "done" || slices.ContainsFunc(m.runs, func(a *attempt) bool { return a.failed })
}

// last is when somebody saw it last.
func (m *message) last() int64 {
	at := m.published
	for _, a := range m.runs {
		at = max(at, a.begun, a.ended)
	}
	return at
}

func (m *message) String() string { return m.queue + " " + m.id }

// story is what happened to the message, for people.
func (m *message) story() string {
	var b strings.Builder
	b.WriteString(m.String())
	if m.published != 0 {
		b.WriteString(", published " + clock(m.published))
	}
	for _, a := range m.runs {
		b.WriteString("; attempt " + a.String())
	}
	if m.dead {
		b.WriteString("; dead")
	}
	return b.String()
}
