package email

import (
	"encoding/base64"
	"runtime"
	"testing"

	"github.com/warrenmq/warren/consumer/consumertest"
)

// docs/email.md says how much memory a mail takes beside the body of its message: as
// much as its attachments, decoded.
func TestLargeBodyIsCopiedOnce(t *testing.T) {
	p := newProcessor(t, Config{Maildir: t.TempDir()})
	content := make([]byte, 24<<20)
	body := []byte(`{"to":"a@b.c","subject":"x","text":"x","attachments":[{"name":"x.bin","content":"` + base64.StdEncoding.EncodeToString(content) + `"}]}`)
	d := delivery(t, "1", string(body))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := consumertest.Run(t.Context(), p, d); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(len(content)+2<<20); got > most {
		t.Errorf("a body of %d bytes took %d more, want at most %d", len(body), got, most)
	}
}
