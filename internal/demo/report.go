package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

// adminToken is what the demo's requests bear.
const adminToken = "a-token-for-the-demo"

// report makes sample data with the processor sql, asks for a report of it over HTTP, and
// follows the message until the file is there.
func report(ctx context.Context, _ *broker, d *daemon) error {
	step("Sample data in SQLite: a statement that is executed once for each message")
	for i, body := range []string{`{"statement": "make-orders"}`, `{"statement": "add-orders", "params": {"count": 5000}}`} {
		id := fmt.Sprintf("sample-%d", i+1)
		if err := d.publish(ctx, "chores", body, "--message-id", id); err != nil {
			return err
		}
		if _, err := d.follow(ctx, "/v1/messages/"+id); err != nil {
			return err
		}
	}

	step("A report of it, asked for over HTTP")
	const body = `{"report": "sales", "format": "csv", "params": {"since": "2026-11-15"}}`
	answer, _, err := d.call(ctx, "/v1/queues/reports", []byte(body))
	if err != nil {
		return err
	}
	fmt.Printf("   POST /v1/queues/reports %s\n   %s, Location: %s\n", body, answer.Status, answer.Header.Get("Location"))
	if answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the answer is %s, want 202", answer.Status)
	}
	result, err := d.follow(ctx, answer.Header.Get("Location"))
	if err != nil {
		return err
	}
	var made struct {
		Location string
		Rows     int
	}
	if err := json.Unmarshal(result, &made); err != nil {
		return err
	}
	file, err := os.ReadFile(made.Location)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(file), "\n")
	fmt.Println(indent(strings.Join(lines[:min(4, len(lines))], "")))
	if made.Rows != 16 {
		return fmt.Errorf("the report has %d rows, want the 16 days since the 15th", made.Rows)
	}
	return nil
}

// follow asks for the state of a message until that is its last, prints each that is new,
// and returns the result.
func (d *daemon) follow(ctx context.Context, path string) (result json.RawMessage, err error) {
	var message struct {
		State  string
		Reason string
		Result struct{ JSON json.RawMessage }
	}
	before := ""
	err = until(ctx, "the message of "+path+" is done", func() (bool, error) {
		answer, content, err := d.call(ctx, path, nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			return false, err
		}
		if err := json.Unmarshal(content, &message); err != nil {
			return false, err
		}
		if message.State != before {
			fmt.Printf("   GET %s: %s\n", path, message.State)
			before = message.State
		}
		if message.State == "dead" {
			return false, fmt.Errorf("the message is dead-lettered: %s", content)
		}
		return message.State == "succeeded", nil
	})
	if err == nil && len(message.Result.JSON) > 0 {
		fmt.Printf("   result: %s\n", message.Result.JSON)
	}
	return message.Result.JSON, err
}

var listens = regexp.MustCompile(`msg="admin server listens" addr=(\S+)`)

// call sends a request to the admin server: a POST if there is a body, else a GET.
func (d *daemon) call(ctx context.Context, path string, body []byte) (*http.Response, []byte, error) {
	found := listens.FindStringSubmatch(d.log())
	if found == nil {
		return nil, nil, errors.New("the log does not say where the admin server listens")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+found[1]+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	return answer, content, err
}
