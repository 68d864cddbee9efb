package settings

import (
	"fmt"
	"strings"

	"github.com/warrenmq/warren/processors"
)

// Example is an environment file with every variable there is. It sets what has an example
// in its tags. A queue of each processor is in it, under the processor's name; one that
// needs what there is no example of stands behind a #.
func Example(set processors.Set) string {
	example := example{set: set}
	for _, name := range set.Names() {
		if len(example.lacks(name)) == 0 {
			example.ready = append(example.ready, name)
		}
	}
	example.printf(`# The variables that configure it, as systemd's EnvironmentFile= and a shell read them.
# What stands behind a # is the default, or nothing if the variable is not set by default.
#
# Every variable can be read from a file instead: WARREN_AMQP_URL_FILE=/path names one,
# and a systemd credential called warren_amqp_url is found by its name. Durations are
# written as 500ms, 90s or 1h30m.
`)
	example.variables(daemonVariables(), map[string]string{
		prefix + "QUEUES":    strings.Join(example.ready, ","),
		prefix + "SCHEDULES": example.onlyIfReady("nightly"),
	})
	for i, name := range set.Names() {
		example.queue(name, i == 0)
	}
	example.printf("\n\n## Schedule nightly. Every schedule has these variables; docs/schedules.md explains them.\n")
	schedule := envPrefix("schedule", "nightly")
	example.variables(variables(schedule, new(scheduleSettings)), map[string]string{
		schedule + "CRON":  example.onlyIfReady("0 2 * * *"),
		schedule + "QUEUE": example.onlyIfReady(strings.Join(example.ready[:min(1, len(example.ready))], "")),
	})
	return example.String()
}

// An example is the file as far as it is written.
type example struct {
	strings.Builder
	set   processors.Set
	ready []string // processors, also the names of their queues
}

func (e *example) printf(format string, args ...any) { fmt.Fprintf(e, format, args...) }

// onlyIfReady returns value if there is a queue that it can be about.
func (e *example) onlyIfReady(value string) string {
	if len(e.ready) == 0 {
		return ""
	}
	return value
}

// lacks are the variables of a processor that must be set and have no example.
func (e *example) lacks(processor string) []string {
	config, _ := e.set.Lookup(processor)
	var names []string
	for _, v := range variables("", config) {
		if v.is("required") && v.Default == "" && v.example == "" {
			names = append(names, v.Name)
		}
	}
	return names
}

// queue writes the variables of the queue with a processor; all of them if it is the first.
func (e *example) queue(processor string, first bool) {
	begin := envPrefix("queue", processor)
	config, _ := e.set.Lookup(processor)
	own, values := variables(begin, config), map[string]string{}
	e.printf("\n\n## Queue %s, with the variables of its processor, %[1]s", processor)
	if lacks := e.lacks(processor); len(lacks) > 0 {
		e.printf(".\n## It has to be named in %sQUEUES, and %s set.\n", prefix, strings.Join(lacks, " and "))
		e.printf("\n# %s\n#%sPROCESSOR=%s\n", variables(begin, newQueueSettings(e.set))[0].Help, begin, processor)
		e.variables(own, nil)
		return
	}
	values[begin+"PROCESSOR"] = processor
	for _, v := range own {
		values[v.Name] = v.example
	}
	common := variables(begin, newQueueSettings(e.set))
	if first {
		e.printf(", after those that every queue has")
	} else {
		common = common[:1]
	}
	e.printf(".\n")
	e.variables(append(common, own...), values)
}

// variables writes variables: those with a value set, the others at their default.
func (e *example) variables(vars []Variable, values map[string]string) {
	for _, v := range vars {
		e.printf("\n# %s\n", v.Help)
		if value := values[v.Name]; value != "" {
			e.printf("%s=%s\n", v.Name, quoted(value))
		} else {
			e.printf("#%s=%s\n", v.Name, v.Default)
		}
	}
}

// quoted is a value as a shell and systemd read it.
func quoted(value string) string {
	if strings.ContainsAny(value, " <>*") {
		return `"` + value + `"`
	}
	return value
}
