package docstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A migration is a section of docs/migrating.md, with the paths in it changed to those of a
// folder of the test's own.
type migration struct {
	dir      string
	snippets map[string][]string // by language
}

func migrationFrom(t *testing.T, from string) migration {
	t.Helper()
	_, section, found := strings.Cut(page(t, "migrating.md"), "\n## From "+from+"\n")
	if !found {
		t.Fatalf("docs/migrating.md has no section From %s", from)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	m := migration{t.TempDir(), make(map[string][]string)}
	section = strings.NewReplacer("/usr/local/bin/", m.dir+"/", "/srv/shop", m.dir, "/var/lib/shop/invoices", m.dir,
		"#!/usr/bin/env python3", "#!/usr/bin/python3").Replace(section) // Debian's, which has its packages
	for _, block := range regexp.MustCompile("(?sm)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		m.snippets[block[1]] = append(m.snippets[block[1]], block[2])
	}
	return m
}

// handler writes the section's last snippet in the language as the program of that name.
func (m migration) handler(t *testing.T, language, name string) {
	t.Helper()
	texts := m.snippets[language]
	if len(texts) == 0 {
		t.Fatalf("the section has no %s", language)
	}
	m.write(t, name, texts[len(texts)-1])
}

func (m migration) write(t *testing.T, name, text string) {
	t.Helper()
	syscall.ForkLock.RLock() // what a test beside this one starts would hold the file open, and it could not be run
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// variables are those of the section, and the queue's name.
func (m migration) variables(t *testing.T) (env []string, queue string) {
	t.Helper()
	if len(m.snippets["ini"]) != 1 {
		t.Fatalf("the section has %d blocks of variables, want one", len(m.snippets["ini"]))
	}
	for line := range strings.Lines(m.snippets["ini"][0]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if after, isProcessor := strings.CutSuffix(name, "_PROCESSOR"); isProcessor {
			queue = strings.ToLower(strings.TrimPrefix(after, "WARREN_QUEUE_"))
		}
		env = append(env, name+"="+strings.Trim(value, `"`))
	}
	return append(env, "WARREN_QUEUES="+queue), queue
}

// wantWorked runs the section's queue until what the file has is there, and as many messages
// are dead, each with one of the errors.
func (m migration) wantWorked(t *testing.T, warren string, publish func(v *rabbittest.Vhost, queue string), want map[string]string, errors ...string) {
	t.Helper()
	v := rabbittest.NewVhost(t)
	env, queue := m.variables(t)
	run(t, warren, append(env, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUE_"+strings.ToUpper(queue)+"_MAX_ATTEMPTS=2", "WARREN_QUEUE_"+strings.ToUpper(queue)+"_RETRY_BASE=10ms")...)
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, queue) == 1 }, "the queue is consumed")
	publish(v, queue)
	for name, content := range want {
		rabbittest.Eventually(t, time.Minute, func() bool {
			got, _ := os.ReadFile(filepath.Join(m.dir, name))
			return string(got) == content
		}, fmt.Sprintf("the file %s has %q", name, content))
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, queue+".dead") == len(errors) }, fmt.Sprintf("%d messages are dead", len(errors)))
	var got []string
	for _, dead := range v.Drain(t, queue+".dead") {
		got = append(got, fmt.Sprintf("%v: %v", dead.Headers["x-warren-reason"], dead.Headers["x-warren-error"]))
	}
	for _, want := range errors {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("dead letters: got %q, want one with %q", got, want)
		}
	}
}

// bodies publishes messages with these bodies.
func bodies(t *testing.T, texts ...string) func(*rabbittest.Vhost, string) {
	t.Helper()
	return func(v *rabbittest.Vhost, queue string) {
		for _, text := range texts {
			v.Publish(t, queue, amqp.Publishing{Body: []byte(text)})
		}
	}
}

// TestMigrations runs the handler of each section with the section's variables.
func TestMigrations(t *testing.T) {
	warren := build(t)

	t.Run("loop", func(t *testing.T) {
		t.Parallel()
		m := migrationFrom(t, "a loop of your own")
		m.handler(t, "python", "invoices")
		m.wantWorked(t, warren, bodies(t, `{"number": 17, "cents": 1360}`, `{"number": 18}`, `{"number": 19, "cents": 5}`), map[string]string{"17.txt": "13.60 EUR\n", "19.txt": "0.05 EUR\n"},
			"permanent: the command answered dead:")
	})

	t.Run("rabbitmq-cli-consumer", func(t *testing.T) {
		t.Parallel()
		m := migrationFrom(t, "rabbitmq-cli-consumer")
		m.handler(t, "sh", "as-cli-consumer")
		m.write(t, "console", "#!/bin/sh\ntest $# = 2 -a \"$1\" = event:process || exit 1\nbody=$(echo \"$2\" | base64 -d)\necho \"working $body\"\ncase $body in [0-9]) exit $body ;; esac\necho \"$body\" > "+m.dir+"/worked\n")
		m.wantWorked(t, warren, bodies(t, "3", "4", "1", "an event"), map[string]string{"worked": "an event\n"},
			"permanent: exit status 65: working 3", "exhausted: exit status 75: working 4", "exhausted: exit status 75: working 1")
	})

	t.Run("Celery", func(t *testing.T) {
		t.Parallel()
		const python = "/usr/bin/python3"
		if out, err := exec.Command(python, "-c", "import celery").CombinedOutput(); err != nil {
			t.Fatalf("Celery is missing; apt-get install python3-celery provides it: %v\n%s", err, out)
		}
		m := migrationFrom(t, "Celery")
		m.handler(t, "python", "celery-tasks")
		m.write(t, "shop.py", `
import os
from celery import Celery
app = Celery("shop", broker=os.environ.get("BROKER"))

@app.task
def invoice(number, cents=0):
    if not cents: raise RuntimeError("nothing to pay")
    print("invoice", number)
    with open(os.path.join(os.path.dirname(__file__), f"{number}.txt"), "w") as file: file.write(f"{cents}\n")
`)
		m.write(t, "publisher.py", "from shop import app, invoice\n"+m.snippets["python"][0]+`
invoice.delay(17, cents=1360)
invoice.apply_async([18], {"cents": 5}, headers={"x-delay": 100})
invoice.delay(19)
invoice.apply_async([20, 5], countdown=1)
(invoice.si(21, 5) | invoice.si(22, 5)).delay()
app.send_task("shop.unknown")
`)
		m.wantWorked(t, warren, func(v *rabbittest.Vhost, _ string) {
			cmd := exec.CommandContext(t.Context(), python, "publisher.py")
			cmd.Dir, cmd.Env = m.dir, append(os.Environ(), "BROKER="+v.URL)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}, map[string]string{"17.txt": "1360\n", "18.txt": "5\n"},
			"RuntimeError: nothing to pay", "chains, chords, callbacks and eta need Celery's own worker", "chains, chords, callbacks and eta need Celery's own worker", "shop.unknown")
	})

	t.Run("Sidekiq", func(t *testing.T) {
		t.Parallel()
		m := migrationFrom(t, "Sidekiq")
		m.handler(t, "ruby", "jobs")
		m.write(t, "jobs.rb", "class InvoiceJob\n  def perform(number, cents)\n    raise 'nothing to pay' if cents == 0\n    puts 'working'\n    File.write(File.join(__dir__, \"#{number}.txt\"), \"#{cents}\\n\")\n  end\nend\n")
		m.wantWorked(t, warren, bodies(t, `{"class": "InvoiceJob", "args": [17, 1360], "jid": "b4a577edbccf1d805744efa9", "retry": true}`, `{"class": "InvoiceJob", "args": [18, 0]}`, `{"class": "File", "args": []}`),
			map[string]string{"17.txt": "1360\n"}, "exhausted: the command answered retry:", "permanent: the command answered dead: not a job of ours")
	})

	t.Run("Hangfire", func(t *testing.T) {
		t.Parallel()
		m := migrationFrom(t, "Hangfire")
		m.handler(t, "csharp", "mailed.cs")
		compile := exec.CommandContext(t.Context(), "mcs", "-r:System.Runtime.Serialization", "-out:"+m.dir+"/mailed.exe", m.dir+"/mailed.cs")
		if out, err := compile.CombinedOutput(); err != nil {
			t.Fatalf("compile: %v; apt-get install mono-mcs libmono-system-runtime-serialization4.0-cil provides the compiler\n%s", err, out)
		}
		m.write(t, "mailed", "#!/bin/sh\nexec mono "+m.dir+"/mailed.exe\n")
		m.wantWorked(t, warren, bodies(t, `{"number": 17, "cents": 1360}`, `{"number": 18}`, `{"number": 19, "cents": 5}`), map[string]string{"17.txt": "1360 cents\n", "19.txt": "5 cents\n"},
			"permanent: the command answered dead:")
	})
}
