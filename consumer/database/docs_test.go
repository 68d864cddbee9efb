package database

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// docs/database.md, which other programs are written by, names every column of the
// outbox, and no other; and its example of SQL is published.
func TestDocumentedOutbox(t *testing.T) {
	page, err := os.ReadFile("../../docs/database.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| column | default | |\n| --- | --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, name := range regexp.MustCompile("`(.*?)`").FindAllStringSubmatch(cell, -1) {
			documented = append(documented, name[1])
		}
	}
	example := regexp.MustCompile(`INSERT INTO warren\.outbox .*;`).FindString(string(page))
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		rows, err := d.read.Query("SELECT * FROM " + d.outbox())
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		rows.Close()
		slices.Sort(columns)
		if got := slices.Sorted(slices.Values(documented)); !slices.Equal(got, columns) {
			t.Errorf("documented are %q, want %q", got, columns)
		}
		v := rabbittest.NewVhost(t)
		v.Declare(t, "emails", nil)
		consume(t, v.URL, d, new(logBuffer), idle)
		d.exec(t, strings.Replace(example, "warren.outbox", d.outbox(), 1))
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "emails") == 1 }, "the example is published")
		if m := v.Drain(t, "emails")[0]; !strings.Contains(string(m.Body), `"ada@example.net"`) {
			t.Errorf("got %s", m.Body)
		}
	})
}

// docs/database.md says how many connections a server has to have for a daemon.
func TestDocumentedConnections(t *testing.T) {
	page, err := os.ReadFile("../../docs/database.md")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`(?s)as there are slots \(the sum of .CONCURRENCY.\), and\s+(\d+) more`).FindSubmatch(page)
	if said == nil {
		t.Fatal("docs/database.md does not say how many connections a daemon opens")
	}
	more, err := strconv.Atoi(string(said[1]))
	if err != nil {
		t.Fatal(err)
	}
	const slots = 5
	d, err := New(Config{URL: pgtest.URL(t), Connections: slots}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// As many as there can be are in use at once, and no other can be had.
	for i := range slots + more {
		conn, err := d.read.Conn(t.Context())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
	}
	if got := d.read.Stats(); got.MaxOpenConnections != slots+more || got.InUse != slots+more {
		t.Errorf("the pool has %d connections and at most %d, documented are %d", got.InUse, got.MaxOpenConnections, slots+more)
	}
}
