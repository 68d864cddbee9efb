package main

import (
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestOwnProcessor takes examples/own-processor out of the repository, as somebody who
// begins with it would: it builds, passes its tests, has its variables where ours are,
// processes a message, and becomes a package with a unit of its own.
func TestOwnProcessor(t *testing.T) {
	t.Parallel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "acme-worker")
	if err := os.CopyFS(dir, os.DirFS("examples/own-processor")); err != nil {
		t.Fatal(err)
	}
	in := func(env []string, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, append(slices.DeleteFunc(os.Environ(), func(variable string) bool {
			return strings.HasPrefix(variable, "WARREN_") // such as those of tests
		}), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := in(nil, name, args...)
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return out
	}
	must("go", "mod", "edit", "-replace=github.com/warrenmq/warren="+root)
	must("go", "mod", "tidy")
	must("go", "vet", "./...")
	must("make", "build", "test")
	program := filepath.Join(dir, "bin", "acme-worker")
	if got := must(program, "version"); !strings.HasPrefix(got, "acme-worker v0.1.0 (go1.") {
		t.Errorf("version: got %q", got)
	}

	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	images, resized := filepath.Join(dir, "images"), filepath.Join(dir, "resized")
	newImage(t, filepath.Join(images, "cats", "tom.png"))
	env := []string{
		"WARREN_AMQP_URL=" + v.URL, "WARREN_ADMIN_ADDR=", "WARREN_QUEUES=images", "WARREN_QUEUE_IMAGES_PROCESSOR=resize",
		"WARREN_QUEUE_IMAGES_IMAGES=" + images, "WARREN_QUEUE_IMAGES_RESIZED=" + resized,
	}
	out, err := in(env, program, "config")
	if err != nil || !strings.Contains(out, "\nWARREN_QUEUE_IMAGES_MAX_WIDTH=2000  [default]\n    The greatest width") || !strings.Contains(out, "command, email, log, report, resize, sql or webhook") {
		t.Errorf("config: %v\n%s", err, out)
	}
	out, err = in(append(env, "WARREN_QUEUE_IMAGES_IMAGES=/nowhere", "WARREN_QUEUE_IMAGES_MAX_WIDHT=1"), program, "check")
	for _, want := range []string{
		"acme-worker: the configuration has 2 faults:\n", "queue images (WARREN_QUEUE_IMAGES_...): IMAGES: stat /nowhere",
		"WARREN_QUEUE_IMAGES_MAX_WIDHT is unknown; the nearest known name is WARREN_QUEUE_IMAGES_MAX_WIDTH",
	} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("check of two faults: %v\n%s\nwant %q in it", err, out, want)
		}
	}
	rabbittest.Eventually(t, time.Minute, func() bool {
		out, err := in(env, program, "check")
		return err == nil && strings.Contains(out, "ok     configuration: queues images\n")
	}, "check finds no fault")
	if exists(resized) {
		t.Error("check has made a folder")
	}

	v.Declare(t, "seeds", nil)
	d := launchProgram(t, program, nil, append(env, "WARREN_SCHEDULES=seed", "WARREN_SCHEDULE_SEED_ONCE=true", "WARREN_SCHEDULE_SEED_QUEUE=seeds")...)
	d.consumes(t)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "seeds") == 1 }, "the schedule has fired")
	wantNamed(t, v, "acme-worker")
	if got := v.Drain(t, "seeds")[0].AppId; got != "acme-worker" {
		t.Errorf("what the schedule has published has the app-id %q, want acme-worker", got)
	}
	v.Publish(t, "images", amqp091.Publishing{MessageId: "m1", ReplyTo: "answers", Body: []byte(`{"image": "cats/tom.png", "width": 16}`)})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "answers") == 1 }, "the result is there")
	if got := v.Drain(t, "answers")[0]; string(got.Body) != `{"file":"cats-tom-16.png","width":16,"height":8}` || !exists(filepath.Join(resized, "cats-tom-16.png")) {
		t.Errorf("got the result %s", got.Body)
	}
	d.signal(t, os.Interrupt)
	wantExit(t, d, 0)

	must("make", "package", "NFPM=go tool -modfile="+root+"/.ci/nfpm/go.mod nfpm")
	packages, err := filepath.Glob(filepath.Join(dir, "dist", "acme-worker_0.1.0_*.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("got the packages %q, %v, want one", packages, err)
	}
	unpacked := t.TempDir()
	must("dpkg-deb", "-x", packages[0], unpacked)
	for file, want := range map[string]string{
		"usr/lib/systemd/system/acme-worker.service":        "ExecStart=/usr/bin/acme-worker run",
		"etc/acme-worker/acme-worker.env":                   "\n#WARREN_QUEUE_RESIZE_MAX_WIDTH=2000\n",
		"usr/share/bash-completion/completions/acme-worker": "complete -o default -F _acme_worker acme-worker",
		"usr/share/man/man1/acme-worker.1.gz":               "",
		"usr/share/man/man5/acme-worker.env.5.gz":           "",
		"usr/bin/acme-worker":                               "",
	} {
		content, err := os.ReadFile(filepath.Join(unpacked, file))
		if err != nil || !strings.Contains(string(content), want) {
			t.Errorf("the package: %s: %v, want %q in it", file, err, want)
		}
	}
	if got := must(filepath.Join(unpacked, "usr/bin/acme-worker"), "--help"); strings.Contains(got, "warren ") || !strings.Contains(got, "Usage: acme-worker") {
		t.Errorf("--help of the packaged program: got\n%s", got)
	}
}

// wantNamed wants every connection and consumer of the vhost to bear the program's name.
func wantNamed(t *testing.T, v *rabbittest.Vhost, program string) {
	t.Helper()
	list := func(args ...string) []string {
		t.Helper()
		out, err := v.Node.Ctl(append([]string{"-q", "--no-table-headers"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(out), "\n")
	}
	connections := slices.DeleteFunc(list("list_connections", "vhost", "client_properties"), func(line string) bool { return !strings.HasPrefix(line, v.Name+"\t") })
	consumers := list("list_consumers", "-p", v.Name, "consumer_tag")
	if len(connections) < 3 || len(consumers) < 2 {
		t.Errorf("got the connections %q and the consumers %q, want those of a queue and a schedule", connections, consumers)
	}
	for _, line := range connections {
		if !strings.Contains(line, `{"connection_name","`+program+" ") {
			t.Errorf("a connection is called otherwise than %s: %s", program, line)
		}
	}
	for _, line := range consumers {
		if !strings.HasPrefix(line, program+" ") {
			t.Errorf("a consumer is called otherwise than %s: %s", program, line)
		}
	}
}

// newImage makes a picture of 64 by 32 pixels.
func newImage(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(f, image.NewGray(image.Rect(0, 0, 64, 32))); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWalkthroughOfProcessors holds the code in docs/processors.md against the example: a
// block may leave lines out, where it says ..., and has no others.
func TestWalkthroughOfProcessors(t *testing.T) {
	page, err := os.ReadFile("docs/processors.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)\\[([a-z/_.-]+)\\]\\([^)]*\\):\n\n```[a-z]+\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 5 {
		t.Errorf("got %d blocks of code with the name of their file before them, want 5 or more", len(blocks))
	}
	for _, block := range blocks {
		content, err := os.ReadFile(filepath.Join("examples/own-processor", block[1]))
		if err != nil {
			t.Fatal(err)
		}
		rest := string(content)
		for _, part := range regexp.MustCompile(`(?m)^\s*(?://|#) \.\.\.\n`).Split(block[2], -1) {
			_, after, found := strings.Cut(rest, strings.TrimSpace(part))
			if !found {
				t.Errorf("docs/processors.md: %s does not have this, after what is before it:\n%s", block[1], part)
			}
			rest = after
		}
	}
}
