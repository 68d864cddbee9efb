package command_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/registry"
)

func TestFaultsOfConfig(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cfg  command.Config
		want []string
	}{
		{command.Config{Mode: "spawn"}, []string{"COMMAND is not set"}},
		{command.Config{Command: "''", Mode: "spawn"}, []string{"COMMAND is not set"}},
		{command.Config{Command: "sh -c 'exit", Mode: "spawn"}, []string{"close every quote"}},
		{command.Config{Command: "cat " + strings.Repeat("x", 128<<10), Mode: "spawn"}, []string{"COMMAND has 131076 bytes"}},
		{command.Config{Command: "cat", Mode: "spawn", Env: "A B"}, []string{"ENV: line 1"}},
		{command.Config{Command: "cat | wc", Mode: "spawn"}, []string{"without a shell", "sh -c"}},
		{command.Config{Command: "true; true", Mode: "spawn"}, []string{"without a shell"}},
		{command.Config{Command: dir + "/absent", Mode: "spawn"}, []string{dir + "/absent", "install"}},
		{command.Config{Command: plain, Mode: "spawn"}, []string{plain, "chmod +x"}},
		{command.Config{Command: dir, Mode: "spawn"}, []string{dir}},
		{command.Config{Command: "no-such-program", Mode: "spawn"}, []string{"no-such-program", "/usr/local/bin", "whole path"}},
		{command.Config{Command: "true", Mode: "threads"}, []string{`MODE is "threads"`, "spawn or pool"}},
		{command.Config{Command: "no-such-program", Mode: "pool"}, []string{"no-such-program", "whole path"}},
		{command.Config{Command: "true", Mode: "spawn", User: "no-such-user"}, []string{"USER", "no-such-user", "create"}},
		{command.Config{Mode: "fast", User: "no-such-user"}, []string{"COMMAND is not set", `MODE is "fast"`, "no-such-user"}},
	} {
		err := test.cfg.Validate(registry.Queue{Name: "commands", Concurrency: 1})
		if err == nil {
			t.Errorf("Validate of %+v found no fault", test.cfg)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("Validate of %+v: error %q, want it to say %q", test.cfg, err, want)
			}
		}
	}
}

func TestWordsAreSplitAsAShellDoes(t *testing.T) {
	t.Setenv("NAME", "expanded")
	p := newProcessor(t, command.Config{Command: `printf '%s|' plain 'single  quoted' "double 'quoted'" back\ slash $NAME '' '*'`})
	want := "plain|single  quoted|double 'quoted'|back slash|$NAME||*|"
	if got := ask(t, p, consumer.Delivery{}); got != want {
		t.Errorf("the command was given %s, want %s", got, want)
	}
}

// What the daemon's own PATH finds is found on one machine and not on the next.
func TestPathOfTheDaemonDoesNotCount(t *testing.T) {
	script := writeScript(t, "#!/bin/sh")
	t.Setenv("PATH", filepath.Dir(script))
	cfg := command.Config{Command: filepath.Base(script), Mode: "spawn"}
	if err := cfg.Validate(registry.Queue{Name: "commands", Concurrency: 1}); err == nil {
		t.Errorf("Validate found %s in the daemon's PATH, want an error", script)
	}
	if got := ask(t, newProcessor(t, command.Config{Command: "echo found"}), consumer.Delivery{}); got != "found\n" {
		t.Errorf("echo wrote %q, want %q", got, "found\n")
	}
}
