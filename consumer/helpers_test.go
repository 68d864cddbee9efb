package consumer

import (
	"reflect"
	"testing"

	"github.com/warrenmq/warren/internal/logtest"
)

type logBuffer = logtest.Buffer

// equal fails the test if got is not deeply equal to want. A nil slice equals an
// empty one.
func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	if g.IsValid() && w.IsValid() && g.Kind() == reflect.Slice && g.Len() == 0 && w.Len() == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
