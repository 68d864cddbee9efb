package mail

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newSender opens the sender of a queue, and closes it in the end.
func newSender(t testing.TB, cfg Config) *Sender {
	t.Helper()
	if cfg.From == "" {
		cfg.From = "Shop <shop@example.com>"
	}
	s, err := cfg.Open(8, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("open: got error %v, want none", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: got error %v, want none", err)
		}
	})
	return s
}

// send sends m for a delivery with that id.
func send(ctx context.Context, s *Sender, id string, m *Message) error {
	_, err := s.Send(ctx, consumer.Delivery{Queue: "emails", MessageID: id, Attempt: 1}, m)
	return err
}

// to is a list of the addresses.
func to(addresses ...string) List { return List{values: addresses} }

// checkVerdict says what is wrong with err, which should lead to the verdict, and
// hold each of the texts.
func checkVerdict(t testing.TB, err error, verdict string, texts ...string) {
	t.Helper()
	if got := consumertest.Verdict(err); got != verdict {
		t.Errorf("got verdict %q (%v), want %q", got, err, verdict)
	}
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got error %v, want one with %q", err, text)
		}
	}
}
