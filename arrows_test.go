package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/warrenmq/warren"
	amqp   = "github.com/rabbitmq/amqp091-go"
)

// arrows are the imports that are meant. A package belongs to the longest row that its
// path begins with, "" being the main package alone; it may import packages of the rows
// that stand there, and of its own. Nothing points up.
var arrows = map[string][]string{
	"":                         {"daemon", "processors"},
	"daemon":                   {"daemon/internal/cli", "daemon/internal/page", "daemon/internal/settings", "processors", "processors/registry", "consumer", "consumer/schedule", "consumer/database", "consumer/state", "consumer/httpapi", "consumer/fleet", "telemetry", "systemd"},
	"daemon/internal/cli":      {"daemon/internal/legible", "daemon/internal/settings", "processors", "processors/registry", "consumer", "consumer/operator", "consumer/fleet", "consumer/database", "consumer/state", "consumer/jsonvalue"},
	"daemon/internal/page":     {"daemon/internal/legible", "consumer", "consumer/operator", "consumer/fleet", "consumer/state"},
	"daemon/internal/legible":  {},
	"daemon/internal/settings": {"processors", "processors/registry", "consumer", "consumer/schedule", "consumer/database", "telemetry", "consumer/jsonvalue"},

	"processors":          {"processors/registry", "processors/internal", "consumer", "consumer/database"},
	"processors/registry": {"consumer"},
	"processors/internal": {"consumer", "consumer/database"},

	"consumer/httpapi":         {"consumer", "consumer/state", "consumer/internal", "consumer/jsonvalue"},
	"consumer/operator":        {"consumer/internal/broker", amqp, "consumer/jsonvalue"},
	"consumer/fleet":           {"consumer/internal", "consumer/internal/broker", amqp},
	"consumer/state":           {"consumer", "consumer/database", "consumer/internal", "internal/failpoint"},
	"consumer/database":        {"consumer", "consumer/internal", "internal/failpoint", "consumer/jsonvalue"},
	"consumer/consumertest":    {"consumer", "consumer/internal"},
	"consumer":                 {"consumer/schedule", "consumer/fleet", "consumer/internal", "consumer/internal/control", "consumer/internal/broker", "consumer/internal/remembered", "consumer/internal/doctor", "consumer/internal/relay", "consumer/internal/replies", "consumer/internal/digest", "internal/failpoint", amqp},
	"consumer/schedule":        {"consumer/internal", "consumer/internal/broker", "internal/failpoint", amqp},
	"consumer/jsonvalue":       {},
	"consumer/internal/broker": {"consumer/internal", "internal/failpoint", amqp},

	"consumer/internal/remembered": {amqp},
	"consumer/internal/replies":    {"consumer/internal/broker"},
	"consumer/internal/doctor":     {"consumer/schedule", "consumer/internal/broker"},
	"consumer/internal/digest":     {"consumer/internal/broker", amqp},
	"consumer/internal/relay":      {"consumer/internal", "consumer/internal/broker"},
	"consumer/internal/control":    {"consumer/fleet", "consumer/schedule", "consumer/internal", "consumer/internal/broker", amqp},
	"consumer/internal":            {"internal/failpoint"},

	"telemetry":          {},
	"systemd":            {},
	"internal/failpoint": {},                                      // of what is built, nothing is left of it
	"internal":           {"consumer", "consumer/database", amqp}, // for tests, measurements and the demo

	"internal/checker": {}, // it decides about Warren, and owes it nothing
}

func TestImportsPointOneWay(t *testing.T) {
	seen := make(map[string]bool)
	for _, packages := range goList(t, "-deps", "-f", "{{.ImportPath}}{{range .Imports}} {{.}}{{end}}", "./...") {
		from, ours := row(packages[0])
		if !ours {
			continue
		}
		seen[from] = true
		for _, imported := range packages[1:] {
			to, ours := row(imported)
			if !ours && imported == amqp {
				to = amqp
			} else if !ours || to == from {
				continue
			}
			if !slices.Contains(arrows[from], to) {
				t.Errorf("%s imports %s; the packages of the row %q may import those of %q", packages[0], imported, from, arrows[from])
			}
		}
	}
	for _, name := range []string{"", "daemon", "daemon/internal/cli", "daemon/internal/settings", "processors", "consumer", "consumer/database", "consumer/internal/broker", "telemetry", "systemd"} {
		if !seen[name] {
			t.Errorf("go list names no package of the row %q", name)
		}
	}
}

// row is the row that a package of ours belongs to.
func row(pkg string) (string, bool) {
	path, ours := strings.CutPrefix(pkg+"/", module+"/")
	if !ours {
		return "", false
	}
	longest := ""
	for name := range arrows {
		if len(name) > len(longest) && strings.HasPrefix(path, name+"/") {
			longest = name
		}
	}
	if longest == "" {
		return strings.TrimSuffix(path, "/"), true // a row that there is not, or the main package
	}
	return longest, true
}

// goList is what go list says, a line of words each.
func goList(t *testing.T, args ...string) [][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, stderr.Bytes())
	}
	var lines [][]string
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, words)
		}
	}
	return lines
}

// The root has the program, and tests of it as a whole.
func TestRootHasNoCode(t *testing.T) {
	files := goList(t, "-f", `{{join .GoFiles " "}}`, ".")
	if len(files) != 1 || !slices.Equal(files[0], []string{"main.go"}) {
		t.Errorf("the root has %q, want main.go alone", files)
	}
}

// maxConsumerLines comes down as packages leave: 3,500 can be read in a sitting.
const maxConsumerLines = 3500

// The life of a delivery can be read in a sitting.
func TestConsumerIsShort(t *testing.T) {
	lines := 0
	for _, name := range goList(t, "-f", `{{range .GoFiles}}{{println .}}{{end}}{{range .IgnoredGoFiles}}{{println .}}{{end}}`, "./consumer") {
		if strings.HasSuffix(name[0], "_test.go") { // with a build tag
			continue
		}
		content, err := os.ReadFile(filepath.Join("consumer", name[0]))
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(content, []byte("\n"))
	}
	t.Logf("package consumer has %d lines", lines)
	if lines > maxConsumerLines {
		t.Errorf("package consumer has %d lines, more than %d: what can be a package below it?", lines, maxConsumerLines)
	}
}
