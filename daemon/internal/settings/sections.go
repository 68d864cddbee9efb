package settings

import (
	"slices"
	"strings"

	"github.com/warrenmq/warren/processors"
)

// A Section is a part of the manual's page of variables.
type Section struct {
	Title, Text string
	Vars        []Variable
}

// Sections are all variables that there are, those of queues and schedules with <NAME> for
// a name.
func Sections(set processors.Set) []Section {
	const queue = prefix + "QUEUE_<NAME>_"
	const named = "<NAME> being its name in upper case, with - and . as _."
	all := []Section{
		{"THE DAEMON", "These are there once.", daemonVariables()},
		{"QUEUES", "Each queue has these, " + named, variables(queue, newQueueSettings(set))},
	}
	for _, name := range set.Names() {
		config, _ := set.Lookup(name)
		if vars := variables(queue, config); len(vars) > 0 {
			all = append(all, Section{"PROCESSOR " + strings.ToUpper(name), "A queue whose processor is " + name + " has these, too.", vars})
		}
	}
	return append(all, Section{"SCHEDULES", "Each schedule has these, " + named, variables(prefix+"SCHEDULE_<NAME>_", new(scheduleSettings))})
}

// daemonVariables are those that are there once.
func daemonVariables() []Variable {
	return slices.Concat(variables(prefix, new(brokerSettings)), variables(prefix, new(daemonSettings)), variables(prefix, new(databaseSettings)), variables(prefix, new(operatorSettings)))
}
