package main

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/warrenmq/warren"
	amqp   = "github.com/rabbitmq/amqp091-go"
)

// arrows are the imports that are meant, by the first folder of who imports: other
// folders of ours, each of which may also import packages of its own. The main
// package has no folder, and internal is for tests and the demo.
var arrows = map[string][]string{
	"":           {"processors", "consumer", "telemetry", "systemd"},
	"processors": {"consumer"},
	"consumer":   {amqp},
	"telemetry":  {},
	"systemd":    {},
	"internal":   {"consumer", amqp},
}

func TestImportsPointOneWay(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}}{{range .Imports}} {{.}}{{end}}", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	list, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, stderr.Bytes())
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(list)) {
		packages := strings.Fields(line)
		from, ours := folder(packages[0])
		if !ours {
			continue
		}
		seen[from] = true
		for _, imported := range packages[1:] {
			to, ours := folder(imported)
			if !ours && imported == amqp {
				to = amqp
			} else if !ours || to == from {
				continue
			}
			if !slices.Contains(arrows[from], to) {
				t.Errorf("%s imports %s; the packages below %q may import %q", packages[0], imported, from, arrows[from])
			}
		}
	}
	for _, folder := range []string{"", "processors", "consumer", "telemetry", "systemd"} {
		if !seen[folder] {
			t.Errorf("go list names no package below %q; it names\n%s", folder, list)
		}
	}
}

// folder is the first folder of the path of a package of ours.
func folder(pkg string) (string, bool) {
	path, ours := strings.CutPrefix(pkg, module)
	if !ours || path != "" && path[0] != '/' {
		return "", false
	}
	path, _, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return path, true
}
