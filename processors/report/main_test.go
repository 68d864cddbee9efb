package report

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/processors/registry"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// reports makes a folder with the files, by name without .sql.
func reports(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name+".sql"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newProcessor makes the processor of a queue reports, and closes it in the end.
func newProcessor(t testing.TB, cfg Config) consumer.Processor {
	t.Helper()
	if cfg.AttachmentMaxBytes == 0 {
		cfg.AttachmentMaxBytes = 1000
	}
	p, err := cfg.Open(registry.Queue{Name: "reports", Concurrency: 8}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("new processor: %v", err)
	}
	t.Cleanup(func() {
		if err := p.(io.Closer).Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func sqliteURL(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "shop.db") }

// execute has the database execute a statement, which need not be one only.
func execute(t testing.TB, url, statement string) {
	t.Helper()
	if strings.HasPrefix(url, "sqlite:") {
		db, err := database.Open(url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		return
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// each runs f as a subtest with the URL of a new PostgreSQL database, and with that
// of a new SQLite file.
func each(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("postgres", func(t *testing.T) { f(t, pgtest.URL(t)) })
	t.Run("sqlite", func(t *testing.T) {
		url := sqliteURL(t)
		execute(t, url, "CREATE TABLE here (n int)") // who only reads makes no file
		f(t, url)
	})
}

// process gives the processor a delivery with that body.
func process(ctx context.Context, p consumer.Processor, body string) (consumer.Result, error) {
	return consumertest.Run(ctx, p, consumer.Delivery{Queue: "reports", MessageID: "m1", Attempt: 1, Body: []byte(body)})
}

// made is the result of a delivery with that body, and the file that it tells of.
func made(t testing.TB, p consumer.Processor, body string) (result, string) {
	t.Helper()
	answer, err := process(t.Context(), p, body)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	var r result
	if err := json.Unmarshal(answer.Body, &r); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(r.Location)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(content)
}

// check says what is wrong with err, which should lead to the verdict and hold the
// texts.
func check(t testing.TB, err error, verdict string, texts ...string) {
	t.Helper()
	if got := consumertest.Verdict(err); got != verdict {
		t.Errorf("got %s (%v), want %s", got, err, verdict)
	}
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v\nwant %q in it", err, text)
		}
	}
}

// isEmpty checks that there is nothing in a folder, not even half a file.
func isEmpty(t testing.TB, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Errorf("%s was left in the output", f.Name())
	}
}
