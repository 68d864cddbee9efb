package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// snippet is the README's block of code in that language.
func snippet(t *testing.T, language string) string {
	t.Helper()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatalf("README.md has no block of %s", language)
	}
	return string(block[1])
}

// TestPublishFromPython runs the README's publisher against a queue that sends mail.
func TestPublishFromPython(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3" // Debian's, which has its packages
	if out, err := exec.Command(python, "-c", "import pika").CombinedOutput(); err != nil {
		t.Fatalf("Python's pika is missing; apt-get install python3-pika provides it: %v\n%s", err, out)
	}
	v := rabbittest.NewVhost(t)
	server := newMailServer(t)
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=email",
		"WARREN_QUEUE_EMAILS_SMTP_URL=smtp://"+server.addr+"?tls=none", "WARREN_QUEUE_EMAILS_FROM=shop@example.com")

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	publisher := exec.CommandContext(ctx, python, "-c", snippet(t, "python"))
	publisher.Env = []string{"AMQP_URL=" + v.URL}
	if out, err := publisher.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return strings.Join(server.subjects(), ",") == "Order A-17" }, "the mail has arrived")
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}

// TestProcessorOfTheReadme compiles the README's processor.
func TestProcessorOfTheReadme(t *testing.T) {
	t.Parallel()
	code := snippet(t, "go")
	if n := strings.Count(code, "\n"); n > 30 {
		t.Errorf("it has %d lines, and is to be under 30", n)
	}
	dir, err := os.MkdirTemp("processors", "_readme") // no package to whoever lists them
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	code += "\nfunc resize(context.Context, string, order) error { return nil }\n"
	if err := os.WriteFile(dir+"/resize.go", []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", "./"+dir).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
