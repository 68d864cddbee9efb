package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

func TestTheErrorOfAnAttemptIsItsVerdict(t *testing.T) {
	plain := errors.New("smtp: connection refused")
	working := t.Context()
	stopping, cancel := context.WithCancelCause(t.Context())
	cancel(ErrShutdown)

	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want verdict
	}{
		"nil":                         {working, nil, verdict{action: acknowledge}},
		"plain":                       {working, plain, verdict{action: retryLater}},
		"permanent":                   {working, Permanent(plain), verdict{action: deadLetter, reason: "permanent"}},
		"permanent, wrapped":          {working, fmt.Errorf("send: %w", Permanent(plain)), verdict{action: deadLetter, reason: "permanent"}},
		"after":                       {working, RetryAfter(plain, time.Minute), verdict{action: retryLater, after: time.Minute}},
		"outermost wins, after":       {working, RetryAfter(Permanent(plain), time.Minute), verdict{action: retryLater, after: time.Minute}},
		"outermost wins, permanent":   {working, Permanent(RetryAfter(plain, time.Minute)), verdict{action: deadLetter, reason: "permanent"}},
		"undecodable":                 {working, Undecodable(plain), verdict{action: deadLetter, reason: "undecodable"}},
		"cut short":                   {stopping, plain, verdict{action: requeue}},
		"cut short, retry after":      {stopping, RetryAfter(plain, time.Minute), verdict{action: requeue}},
		"done in spite of stopping":   {stopping, nil, verdict{action: acknowledge}},
		"permanent while cut short":   {stopping, Permanent(plain), verdict{action: deadLetter, reason: "permanent"}},
		"unavailable":                 {working, fmt.Errorf("send: %w", Unavailable(plain)), verdict{action: retryLater, uncounted: true}},
		"unavailable for a while":     {working, Unavailable(RetryAfter(plain, time.Minute)), verdict{action: retryLater, after: time.Minute, uncounted: true}},
		"unavailable, cut short":      {stopping, Unavailable(plain), verdict{action: requeue}},
		"no database":                 {working, fmt.Errorf("begin: %w", ErrDatabase), verdict{action: retryLater, uncounted: true}},
		"no database, permanent":      {working, Permanent(fmt.Errorf("begin: %w", ErrDatabase)), verdict{action: retryLater, uncounted: true}},
		"joined with a permanent one": {working, errors.Join(io.EOF, Permanent(plain)), verdict{action: deadLetter, reason: "permanent"}},
	} {
		if got := verdictOf(c.ctx, c.err); got != c.want {
			t.Errorf("%s: verdict of %v is %+v, want %+v", name, c.err, got, c.want)
		}
	}
}

func TestMarksKeepTheirError(t *testing.T) {
	if Permanent(nil) != nil || RetryAfter(nil, time.Second) != nil || Unavailable(nil) != nil {
		t.Error("a mark of nil is not nil")
	}
	if err := Permanent(io.EOF); !errors.Is(err, io.EOF) || err.Error() != "EOF" {
		t.Errorf("Permanent(io.EOF) is %q and wraps io.EOF: %v", err, errors.Is(err, io.EOF))
	}
}
