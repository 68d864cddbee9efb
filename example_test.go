package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write config.example.env anew")

const exampleFile = "config.example.env"

// exampleValues are what the example file sets; all else it leaves at the default.
var exampleValues = map[string]string{
	"WARREN_QUEUES":                   "emails,commands,webhooks,log",
	"WARREN_QUEUE_EMAILS_PROCESSOR":   "email",
	"WARREN_QUEUE_EMAILS_MAILDIR":     "/var/lib/warren/mail",
	"WARREN_QUEUE_EMAILS_FROM":        "Shop <shop@example.com>",
	"WARREN_QUEUE_COMMANDS_PROCESSOR": "command",
	"WARREN_QUEUE_COMMANDS_COMMAND":   "/bin/cat",
	"WARREN_QUEUE_WEBHOOKS_PROCESSOR": "webhook",
	"WARREN_QUEUE_WEBHOOKS_URL":       "https://hooks.example.com/orders",
	"WARREN_QUEUE_LOG_PROCESSOR":      "log",
	"WARREN_SCHEDULES":                "nightly",
	"WARREN_SCHEDULE_NIGHTLY_CRON":    "0 2 * * *",
	"WARREN_SCHEDULE_NIGHTLY_QUEUE":   "log",

	"WARREN_QUEUE_REPORTS_PROCESSOR": "report",
	"WARREN_QUEUE_REPORTS_REPORTS":   "/etc/warren/reports",
	"WARREN_QUEUE_REPORTS_OUTPUT":    "/var/lib/warren/reports",

	"WARREN_QUEUE_CHORES_PROCESSOR":  "sql",
	"WARREN_QUEUE_CHORES_STATEMENTS": "/etc/warren/statements",
}

// exampleNeedsMore are the queues of the example that stand behind a #: they need a
// database and files.
var exampleNeedsMore = []string{"reports", "chores"}

func needsMore(variable string) bool {
	return slices.ContainsFunc(exampleNeedsMore, func(queue string) bool { return strings.HasPrefix(variable, queuePrefix(queue)) })
}

// example is the example file as the structs of settings have it.
func example(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	write := func(vars []variable) {
		for _, v := range vars {
			fmt.Fprintf(&b, "\n# %s\n", v.tag.Get("desc"))
			if value, ok := exampleValues[v.name]; ok && needsMore(v.name) {
				fmt.Fprintf(&b, "#%s=%s\n", v.name, quoted(value))
			} else if ok {
				fmt.Fprintf(&b, "%s=%s\n", v.name, quoted(value))
			} else {
				fmt.Fprintf(&b, "#%s=%s\n", v.name, v.tag.Get("default"))
			}
		}
	}
	b.WriteString(`# The variables of Warren, as systemd's EnvironmentFile= and a shell read them. What
# stands behind a # is the default, or nothing if the variable is not set by default.
#
# Every variable can be read from a file instead: WARREN_AMQP_URL_FILE=/path names one,
# and a systemd credential called warren_amqp_url is found by its name. Durations are
# written as 500ms, 90s or 1h30m.
`)
	write(daemonVariables())

	b.WriteString("\n\n## Queue emails. Every queue has these variables,\n")
	write(variables(queuePrefix("emails"), new(queueSettings)))
	b.WriteString("\n# and those of its processor: email.\n")
	write(processorVariables(t, "emails", "email"))

	b.WriteString("\n\n## Queue commands, with the variables of its processor: command.\n")
	write(variables(queuePrefix("commands"), new(queueSettings))[:1])
	write(processorVariables(t, "commands", "command"))

	b.WriteString("\n\n## Queue webhooks, with the variables of its processor: webhook.\n")
	write(variables(queuePrefix("webhooks"), new(queueSettings))[:1])
	write(processorVariables(t, "webhooks", "webhook"))

	b.WriteString("\n\n## Queue log. Its processor, log, has no variables.\n")
	write(variables(queuePrefix("log"), new(queueSettings))[:1])
	write(processorVariables(t, "log", "log"))

	b.WriteString("\n\n## Queue reports, with the variables of its processor: report. It needs a database\n## and a folder of reports, and to be named in WARREN_QUEUES.\n")
	write(variables(queuePrefix("reports"), new(queueSettings))[:1])
	write(processorVariables(t, "reports", "report"))

	b.WriteString("\n\n## Queue chores, with the variables of its processor: sql. It needs WARREN_DATABASE_URL\n## and a folder of statements, and to be named in WARREN_QUEUES.\n")
	write(variables(queuePrefix("chores"), new(queueSettings))[:1])
	write(processorVariables(t, "chores", "sql"))

	b.WriteString("\n\n## Schedule nightly. Every schedule has these variables; docs/schedules.md explains them.\n")
	write(variables(schedulePrefix("nightly"), new(scheduleSettings)))
	return b.String()
}

func processorVariables(t *testing.T, queue, processor string) []variable {
	t.Helper()
	settings, ok := standard.Lookup(processor)
	if !ok {
		t.Fatalf("there is no processor %s", processor)
	}
	return variables(queuePrefix(queue), settings)
}

func quoted(value string) string {
	if strings.ContainsAny(value, " <>*") {
		return `"` + value + `"`
	}
	return value
}

// The file says what the structs say: every variable, its default, its explanation.
func TestExampleFileIsWhatTheParserKnows(t *testing.T) {
	want := example(t)
	if *update {
		if err := os.WriteFile(exampleFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the settings' tags say; write it anew with: go test -run Example . -update", exampleFile)
	}
	for _, name := range standard.Names() {
		if !strings.Contains(want, "_PROCESSOR="+name+"\n") {
			t.Errorf("%s has no queue with the processor %s", exampleFile, name)
		}
	}
}

// The daemon takes the file as it is, and it makes no difference to write the
// defaults down.
func TestExampleFileIsAccepted(t *testing.T) {
	content, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	var set, all, more []string
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		name, value, isVariable := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if !isVariable || !strings.HasPrefix(name, envPrefix) {
			continue
		}
		entry := name + "=" + strings.Trim(value, `"`)
		if strings.HasSuffix(name, "_MAILDIR") {
			entry = name + "=" + filepath.Join(t.TempDir(), "mail")
		}
		switch {
		case needsMore(name):
			if value != "" {
				more = append(more, entry)
			}
		case !strings.HasPrefix(line, "#"):
			set = append(set, entry)
		case value != "":
			all = append(all, entry)
		}
	}
	all = slices.Concat(set, all)
	if len(set)+len(more) < len(exampleValues) || len(all) < 2*len(set) {
		t.Fatalf("found %d variables that are set and %d in all: the file is not as expected", len(set), len(all))
	}

	loaded := func(entries []string) *config {
		setenv(t, entries...)
		cfg, err := loadConfig(io.Discard)
		if err != nil {
			t.Fatalf("with %q: %v", entries, err)
		}
		if err := cfg.Close(); err != nil {
			t.Error(err)
		}
		for i := range cfg.consumer.Queues {
			cfg.consumer.Queues[i].Processor = nil
		}
		return cfg
	}
	got, want := loaded(all), loaded(set)
	if !reflect.DeepEqual(got.consumer, want.consumer) {
		t.Errorf("with the defaults written down: got %+v, want %+v", got.consumer, want.consumer)
	}

	dir := t.TempDir()
	for _, folder := range []string{"reports", "statements"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, folder, "one.sql"), []byte("SELECT 1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, entry := range more {
		more[i] = strings.NewReplacer("/etc/warren", dir, "/var/lib/warren", dir).Replace(entry)
	}
	loaded(slices.Concat(more, []string{"WARREN_QUEUES=" + strings.Join(exampleNeedsMore, ","), "WARREN_DATABASE_URL=sqlite:" + filepath.Join(dir, "warren.db")}))
}
