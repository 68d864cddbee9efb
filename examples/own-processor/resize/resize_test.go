package resize_test

import (
	"image"
	"image/png"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/registry"

	"example.com/acme-worker/resize"
)

// newImages makes a folder with one image, 64 by 32 pixels, and a file that is none.
func newImages(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "tom.png"))
	if err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(f, image.NewGray(image.Rect(0, 0, 64, 32))); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestResize(t *testing.T) {
	cfg := resize.Config{Images: newImages(t), Resized: filepath.Join(t.TempDir(), "new"), MaxWidth: 100}
	queue := registry.Queue{Name: "images", Concurrency: 4}
	if err := cfg.Validate(queue); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cfg.Resized); err == nil {
		t.Error("Validate has made a folder; that is for Open")
	}
	p, err := cfg.Open(queue, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	}()

	for _, test := range []struct{ body, verdict, result, fault string }{
		{`{"image": "tom.png", "width": 16}`, "ack", `{"file":"tom-16.png","width":16,"height":8}`, ""},
		{`{"image": "tom.png", "width": 16}`, "ack", `{"file":"tom-16.png","width":16,"height":8}`, ""}, // a repeat
		{`{"image": "tom.png", "width": 101}`, "dead", "", "width is 101; it must be from 1 to 100"},
		{`{"image": "tim.png", "width": 16}`, "dead", "", "no such file"},
		{`{"image": "notes.txt", "width": 16}`, "dead", "", "notes.txt is neither a JPEG nor a PNG"},
		{`{"image": "../secret.png", "width": 16}`, "dead", "", "it must be a path within IMAGES"},
		{`{"image": 1}`, "dead", "", "decode body"},
	} {
		result, err := consumertest.Run(t.Context(), p, consumer.Delivery{Queue: "images", ReplyTo: "answers", Body: []byte(test.body)})
		if got := consumertest.Verdict(err); got != test.verdict || string(result.Body) != test.result {
			t.Errorf("%s: got %s (%v) and %s, want %s and %s", test.body, got, err, result.Body, test.verdict, test.result)
		}
		if err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%s: got %v, want %q in it", test.body, err, test.fault)
		}
	}
	if files, err := os.ReadDir(cfg.Resized); err != nil || len(files) != 1 {
		t.Errorf("got the files %v and %v, want tom-16.png alone", files, err)
	}
}

func TestFaultsOfConfig(t *testing.T) {
	cfg := resize.Config{Images: "/nowhere", Resized: "/tmp/x", MaxWidth: 20001}
	err := cfg.Validate(registry.Queue{Name: "images", Concurrency: 4})
	for _, want := range []string{"IMAGES: stat /nowhere", "MAX_WIDTH is 20001"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
