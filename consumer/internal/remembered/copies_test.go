package remembered

import (
	"fmt"
	"testing"
)

type delivery struct{ tag int }

func TestWhatBecameOfACopyCountsForTheSecond(t *testing.T) {
	c := NewCopies[delivery]()
	first, second := &delivery{1}, &delivery{2}
	claim := func(what string, j, wantHolder *delivery, wantSettled bool) {
		t.Helper()
		if holder, settled := c.Claim("a", j); holder != wantHolder || settled != wantSettled {
			t.Errorf("%s: got holder %v and settled %v, want %v and %v", what, holder, settled, wantHolder, wantSettled)
		}
	}
	claim("the first copy", first, nil, false)
	claim("a second beside it", second, first, false)
	c.Release("a", false)
	claim("when the first went back to its queue", second, nil, false)
	claim("the first, once more", first, second, false)
	c.Release("a", true)
	claim("when it is settled", first, nil, true)
	claim("and again", first, nil, true)
	if holder, settled := c.Claim("b", first); holder != nil || settled {
		t.Errorf("another copy: got holder %v and settled %v, want neither", holder, settled)
	}
	for range 2 {
		if holder, settled := c.Claim("", first); holder != nil || settled {
			t.Errorf("without a name: got holder %v and settled %v, want neither", holder, settled)
		}
		c.Release("", true)
		c.Double(nil)
	}
}

// TestASecondCopyIsExpectedForLong lets so many others come and go between two copies
// that the first would be forgotten.
func TestASecondCopyIsExpectedForLong(t *testing.T) {
	for name, double := range map[string]func(c *Copies[delivery], step int){
		"published again before the first came":  func(c *Copies[delivery], step int) { c.Double([]any{"a", nil, nil}[step]) },
		"published again while it was worked":    func(c *Copies[delivery], step int) { c.Double([]any{nil, "a", nil}[step]) },
		"published again when that was done":     func(c *Copies[delivery], step int) { c.Double([]any{nil, nil, "a"}[step]) },
		"published three times, and again later": func(c *Copies[delivery], step int) { c.Double("a"); c.Double("a") },
	} {
		c := NewCopies[delivery]()
		double(c, 0)
		c.Claim("a", &delivery{1})
		double(c, 1)
		c.Release("a", true)
		double(c, 2)
		for i := range 2 * maxRemembered {
			c.Claim(fmt.Sprint(i), &delivery{2})
			c.Release(fmt.Sprint(i), true)
		}
		if _, settled := c.Claim("a", &delivery{3}); !settled {
			t.Errorf("%s: the second copy is not known", name)
		}
		if n := c.recent.Len(); n != maxRemembered {
			t.Errorf("%s: %d others are remembered, want the newest %d", name, n, maxRemembered)
		}
	}
}
