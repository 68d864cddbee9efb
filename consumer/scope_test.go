package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A recordingResource writes down what happens to it.
type recordingResource struct {
	name          string
	events        *[]string
	commit, close func() error
}

func (r *recordingResource) Commit(ctx context.Context) error {
	*r.events = append(*r.events, "commit "+r.name)
	return call(r.commit)
}

func (r *recordingResource) Close(ctx context.Context) error {
	*r.events = append(*r.events, "close "+r.name)
	return call(r.close)
}

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func TestScopeEndsWhatItsAttemptOpened(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		process func() error
		commitB func() error
		want    string
		wantErr string
	}{
		"success":         {nil, nil, "commit b, commit a, close b, close a", ""},
		"failure":         {func() error { return boom }, nil, "close b, close a", "boom"},
		"panic":           {func() error { panic("ouch") }, nil, "close b, close a", "panic: ouch"},
		"commit fails":    {nil, func() error { return boom }, "commit b, close b, close a", "commit b: boom"},
		"commit panics":   {nil, func() error { panic("ouch") }, "commit b, close b, close a", "commit b: panic: ouch"},
		"nothing is used": {func() error { return nil }, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var events []string
			open := func(name string, commit func() error) *Lazy[*recordingResource] {
				return &Lazy[*recordingResource]{Name: name, Open: func(context.Context, Delivery) (*recordingResource, error) {
					return &recordingResource{name: name, events: &events, commit: commit}, nil
				}}
			}
			a, b := open("a", nil), open("b", c.commitB)
			p := ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
				if c.want == "" {
					return c.process()
				}
				for range 2 { // the second time it is the same one
					for _, l := range []*Lazy[*recordingResource]{a, b} {
						if _, err := l.In(ctx, s); err != nil {
							return err
						}
					}
				}
				return call(c.process)
			})
			_, err := Try(t.Context(), p, Delivery{}, slog.New(slog.DiscardHandler))
			equal(t, strings.Join(events, ", "), c.want)
			equal(t, errorText(err), c.wantErr)
		})
	}
}

func TestScopeThatCannotOpenFailsTheAttempt(t *testing.T) {
	tx := &Lazy[*recordingResource]{Name: "transaction", Open: func(context.Context, Delivery) (*recordingResource, error) {
		return nil, errors.New("database is away")
	}}
	_, err := Try(t.Context(), ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
		_, err := tx.In(ctx, s)
		return err
	}), Delivery{}, slog.New(slog.DiscardHandler))
	equal(t, errorText(err), "open transaction: database is away")
}

func TestScopeCloseFailureIsOnlyLogged(t *testing.T) {
	var log strings.Builder
	var events []string
	r := &Lazy[*recordingResource]{Name: "session", Open: func(context.Context, Delivery) (*recordingResource, error) {
		return &recordingResource{name: "session", events: &events, close: func() error { return errors.New("gone") }}, nil
	}}
	_, err := Try(t.Context(), ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
		_, err := r.In(ctx, s)
		return err
	}), Delivery{MessageID: "m-1", Attempt: 2}, slog.New(slog.NewTextHandler(&log, nil)))
	equal(t, err, nil)
	for _, want := range []string{"level=ERROR", "resource=session", "error=gone", "message_id=m-1", "attempt=2"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log is %q, want %q in it", log.String(), want)
		}
	}
}

func TestScopeTempDirThatCannotBeMade(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "absent"))
	attempt := func() error {
		_, err := Try(t.Context(), ProcessorFunc(func(_ context.Context, _ Delivery, s *Scope) error {
			_, err := s.TempDir()
			return err
		}), Delivery{}, slog.New(slog.DiscardHandler))
		return err
	}
	err := attempt()
	equal(t, VerdictOf(err), "unavailable")
	if !strings.Contains(errorText(err), "or have TMPDIR name another folder") {
		t.Errorf("the error %v does not name the remedy", err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	equal(t, attempt(), nil)
}

func TestScopeTempDirLastsAsLongAsTheAttempt(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var dir string
	_, err := Try(t.Context(), ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) (err error) {
		if dir, err = s.TempDir(); err != nil {
			return err
		}
		if again, _ := s.TempDir(); again != dir {
			return fmt.Errorf("the second call gives %s, the first gave %s", again, dir)
		}
		return os.WriteFile(filepath.Join(dir, "report.csv"), nil, 0o600)
	}), Delivery{}, slog.New(slog.DiscardHandler))
	equal(t, err, nil)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestJSON(t *testing.T) {
	type message struct {
		N int `json:"n"`
	}
	var got message
	p := JSON(func(_ context.Context, m message, s *Scope) error {
		got = m
		s.SetResult(Result{Body: []byte("done")})
		return nil
	})
	result, err := Try(t.Context(), p, Delivery{Body: []byte(`{"n": 3, "unknown": true}`)}, slog.New(slog.DiscardHandler))
	equal(t, err, nil)
	equal(t, got.N, 3)
	equal(t, string(result.Body), "done")

	for _, body := range []string{"", "not json", `{"n": "three"}`, `{"n": 1} {"n": 2}`, "\xff"} {
		_, err := Try(t.Context(), p, Delivery{Body: []byte(body)}, slog.New(slog.DiscardHandler))
		if v := verdictOf(t.Context(), err); v.action != deadLetter || v.reason != reasonUndecodable {
			t.Errorf("body %q: verdict %+v of %v, want a dead letter for undecodable", body, v, err)
		}
	}
}

// TestTheRemedyOfAHeaderForTheOutboxCures writes as a string what JSON cannot hold.
func TestTheRemedyOfAHeaderForTheOutboxCures(t *testing.T) {
	var s Scope
	m := Message{RoutingKey: "orders", Headers: map[string]any{"list": []any{map[string]any{"raw": []byte("a")}}}}
	if _, err := s.outgoing(t.Context(), m); err == nil || !strings.Contains(err.Error(), "the outbox cannot hold a []uint8 in a header; write it as a string") {
		t.Errorf("got error %v, want the remedy", err)
	}
	m.Headers["list"] = []any{map[string]any{"raw": "a"}}
	if _, err := s.outgoing(t.Context(), m); err != nil {
		t.Errorf("written as a string: got error %v", err)
	}
}
