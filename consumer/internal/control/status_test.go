package control

import (
	"maps"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

// Each watcher gets the status as often as it wants it, whoever else watches, and for as long
// as it has asked for.
func TestWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var ws watchers
		ask := func(to string, every time.Duration) {
			ws.add(fleet.Request{ForMillis: time.Hour.Milliseconds(), EveryMillis: every.Milliseconds()}, to, "", time.Now())
		}
		ask("older", 0)
		ask("seldom", 8*time.Second)
		ask("gone", 0)
		ask("never again", time.Hour)
		ask("", 0)                                                        // nowhere to send it to
		ws.add(fleet.Request{ForMillis: -1}, "once", "", time.Now())      // nor for how long
		ws.add(fleet.Request{ForMillis: 3000}, "a while", "", time.Now()) // one second less than two of them
		got := make(map[string]int)
		for timer := ws.next(time.Now()); timer != nil && time.Since(began) < time.Hour; timer = ws.next(time.Now()) {
			<-timer
			ws.send(time.Now(), func(w watcher) bool {
				got[w.to]++
				return w.to != "gone"
			})
			if time.Since(began) == 20*time.Second {
				ask("seldom", 6*time.Second) // which counts from then on
			}
		}
		want := map[string]int{"older": 15, "seldom": 2 + 5, "gone": 1, "a while": 1, "never again": 1}
		if !maps.Equal(got, want) {
			t.Errorf("got %v reports, want %v", got, want)
		}
		if len(ws) > 0 || time.Since(began) != 56*time.Second {
			t.Errorf("after %v %d watch, want none after 56 s", time.Since(began), len(ws))
		}
		for i := range 2 * maxWatchers {
			ask(strconv.Itoa(i), 0)
		}
		if len(ws) != maxWatchers || ws[0].to != strconv.Itoa(maxWatchers) {
			t.Errorf("%d watch, the first is %q, want the last %d", len(ws), ws[0].to, maxWatchers)
		}
	})
}
