package disk_test

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/disk"
)

func TestVerdict(t *testing.T) {
	full := os.WriteFile("/dev/full", []byte("x"), 0o600)
	for _, test := range []struct {
		err     error
		verdict string
	}{
		{nil, "ack"},
		{fmt.Errorf("write: %w", full), "unavailable"},
		{errors.Join(errors.New("close"), &os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}), "unavailable"},
		{os.ErrPermission, "retry"},
		{consumer.Permanent(os.ErrNotExist), "dead"},
	} {
		if got := consumer.VerdictOf(disk.Verdict(test.err)); got != test.verdict {
			t.Errorf("%v: got %s, want %s", test.err, got, test.verdict)
		}
	}
}
