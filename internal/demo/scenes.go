package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// scenes publishes the messages of the demo, one after the other, and shows what
// becomes of each. It returns an error if it is not what is to be shown.
func scenes(ctx context.Context, b *broker, d *daemon) error {
	for _, scene := range []func(context.Context, *broker, *daemon) error{mail, shell, python, delayed, flaky, hopeless, report} {
		if err := scene(ctx, b, d); err != nil {
			return err
		}
	}
	return nil
}

func mail(ctx context.Context, _ *broker, d *daemon) error {
	step("A confirmation e-mail, from a template")
	if err := d.publish(ctx, "emails", `{"to": "ada@example.net", "template": "confirmation", "data": {"name": "Ada", "order": "A-17"}}`, "--message-id", "mail-A-17"); err != nil {
		return err
	}
	var found []string
	err := until(ctx, "a mail in the Maildir", func() (_ bool, err error) {
		found, err = filepath.Glob(filepath.Join(d.root, "mail", "new", "*"))
		return len(found) == 1, err
	})
	if err != nil {
		return err
	}
	content, err := os.ReadFile(found[0])
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		for _, header := range []string{"From:", "To:", "Subject:", "Message-ID:"} {
			if strings.HasPrefix(line, header) {
				fmt.Println(indent(line))
			}
		}
	}
	return nil
}

func shell(ctx context.Context, _ *broker, d *daemon) error {
	step("A shell script as the handler")
	if err := d.publish(ctx, "commands", "Ada", "--message-id", "greeting-1"); err != nil {
		return err
	}
	return d.show(ctx, "hello, Ada, says a shell script", 1)
}

// show waits until the log has n lines with text in them, and prints them.
func (d *daemon) show(ctx context.Context, text string, n int) error {
	err := until(ctx, fmt.Sprintf("%d lines of the log with %q", n, text), func() (bool, error) {
		return strings.Count(d.log(), text) >= n, nil
	})
	fmt.Println(indent(d.lines(text)))
	return err
}

func python(ctx context.Context, b *broker, d *daemon) error {
	step("A Python script as the handler, which answers its publisher")
	if err := d.publish(ctx, "commands", `{"lines": [{"price": 12.5}, {"price": 29.5}]}`, "--message-id", "total-1", "--reply-to", "answers", "--correlation-id", "q-1"); err != nil {
		return err
	}
	answer, err := b.take(ctx, "answers")
	if err != nil {
		return err
	}
	fmt.Printf("   in the queue answers, for correlation-id %s: %s", answer.CorrelationId, answer.Body)
	if !strings.Contains(string(answer.Body), "42") {
		return fmt.Errorf("the answer is %s, want a total of 42", answer.Body)
	}
	return nil
}

func delayed(ctx context.Context, _ *broker, d *daemon) error {
	step("A message for later: x-delay, two seconds")
	if err := d.publish(ctx, "log", `{"remind": "Ada"}`, "--message-id", "later-1", "--header", "x-delay=2000"); err != nil {
		return err
	}
	return d.show(ctx, "message_id=later-1", 1)
}

func flaky(ctx context.Context, _ *broker, d *daemon) error {
	step("A message that fails twice, waits in the broker, and then succeeds")
	if err := d.publish(ctx, "commands", "{}", "--message-id", "flaky-1"); err != nil {
		return err
	}
	err := until(ctx, "the third attempt", func() (bool, error) {
		return strings.Contains(d.log(), "attempt 3 of flaky-1"), nil
	})
	fmt.Println(indent(d.lines("message_id=flaky-1")))
	return err
}

func hopeless(ctx context.Context, b *broker, d *daemon) error {
	step("A message that cannot succeed")
	if err := d.publish(ctx, "commands", `{"customer": 4711}`, "--message-id", "hopeless-1"); err != nil {
		return err
	}
	dead, err := b.take(ctx, "commands.dead")
	if err != nil {
		return err
	}
	fmt.Printf("   in the queue commands.dead: %s %s\n", dead.MessageId, dead.Body)
	for _, name := range slices.Sorted(maps.Keys(dead.Headers)) {
		if strings.HasPrefix(name, "x-warren-") {
			fmt.Printf("     %s: %v\n", name, dead.Headers[name])
		}
	}
	if dead.Headers["x-warren-reason"] != "permanent" {
		return fmt.Errorf("the reason is %v, want permanent", dead.Headers["x-warren-reason"])
	}
	return nil
}
