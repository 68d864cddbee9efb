package remembered

import (
	"sync"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
)

// Copies are the copies of messages that have come back to a queue for another attempt.
// Each bears a name of its own, which two deliveries share only if they are the same to
// the message: one is the other's redelivery, or it had to be published twice, since the
// connection was lost before its confirm. What has become of the first counts for the
// others. Any number of goroutines may use it. J is what is made of a delivery.
type Copies[J any] struct {
	mu sync.Mutex
	// doubled are those that were published again. They have a room of their own: the
	// second may come long after the first, when many others have come and gone.
	recent, doubled *lru.LRU[string, *copied[J]]
}

type copied[J any] struct {
	holder  *J // has it in hand; nil: nobody has
	settled bool
}

// NewCopies makes an empty Copies.
func NewCopies[J any]() *Copies[J] {
	return &Copies[J]{recent: newLRU[string, *copied[J]](), doubled: newLRU[string, *copied[J]]()}
}

// Double takes note that a copy is about to be published once more. Its name is that of
// its header, if it has one.
func (c *Copies[J]) Double(header any) {
	name, named := header.(string)
	c.mu.Lock()
	defer c.mu.Unlock()
	if named && !c.doubled.Contains(name) {
		c.doubled.Add(name, c.find(name))
		c.recent.Remove(name)
	}
}

// Claim gives the copy to j unless it is settled, or another has it in hand. Without a
// name it does nothing.
func (c *Copies[J]) Claim(name string, j *J) (holder *J, settled bool) {
	if name == "" {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.find(name)
	if m.holder == nil && !m.settled {
		m.holder = j
		return nil, false
	}
	return m.holder, m.settled
}

// Release takes the copy from whoever has it: it is settled, or has gone back to its
// queue. Without a name it does nothing.
func (c *Copies[J]) Release(name string, settled bool) {
	if name == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.find(name)
	m.holder, m.settled = nil, settled
}

// find returns what is known of a copy, which is nothing at first.
func (c *Copies[J]) find(name string) *copied[J] {
	if m, ok := c.doubled.Get(name); ok {
		return m
	}
	m, ok := c.recent.Get(name)
	if !ok {
		m = &copied[J]{}
		c.recent.Add(name, m)
	}
	return m
}
