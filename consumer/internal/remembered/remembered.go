// Package remembered knows messages again whose work is done and that the broker hands
// out once more.
package remembered

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// maxRemembered bounds what one queue remembers of a kind.
	maxRemembered = 10_000
	// rememberedFor is how long: the broker hands out again what a lost connection had
	// as soon as it has noticed the loss.
	rememberedFor = 10 * time.Minute
)

// Messages are the messages whose work is done but whose acknowledgement the broker
// may not have: their session was lost. It will hand them out once more. It belongs to
// the loop of one queue.
type Messages struct {
	seen *lru.LRU[Identity, memory]
	seed maphash.Seed
}

// A memory is of so many messages that are alike.
type memory struct {
	count int
	until time.Time
}

// An Identity tells one life of a message from another: it is a digest of all that the
// broker hands out again, so that two messages of one identity are alike in everything,
// and it does not matter which of them is taken for which.
type Identity uint64

// New makes an empty memory.
func New() *Messages {
	return &Messages{newLRU[Identity, memory](), maphash.MakeSeed()}
}

func newLRU[K comparable, V any]() *lru.LRU[K, V] {
	l, err := lru.NewLRU[K, V](maxRemembered, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return l
}

// Add remembers one message of that identity at now.
func (r *Messages) Add(id Identity, now time.Time) {
	m, _ := r.seen.Peek(id)
	if now.After(m.until) {
		m.count = 0
	}
	r.seen.Add(id, memory{m.count + 1, now.Add(rememberedFor)})
}

// Take tells whether a message is a repeat of a remembered one, and forgets that.
func (r *Messages) Take(id Identity, now time.Time) bool {
	m, ok := r.seen.Peek(id)
	if !ok {
		return false
	}
	if m.count--; m.count <= 0 || now.After(m.until) {
		r.seen.Remove(id)
	} else {
		r.seen.Add(id, m)
	}
	return !now.After(m.until)
}

// Some tells whether anything is remembered.
func (r *Messages) Some() bool { return r.seen.Len() > 0 }

// IdentityOf is the identity of d.
func (r *Messages) IdentityOf(d *amqp.Delivery) Identity {
	var h maphash.Hash
	h.SetSeed(r.seed)
	for _, s := range [...]string{
		d.MessageId, d.Type, d.RoutingKey, d.Exchange, d.CorrelationId, d.ReplyTo, d.ContentType, d.ContentEncoding,
		d.Expiration, d.AppId, d.UserId,
	} {
		writeText(&h, s)
	}
	writeNumber(&h, uint64(d.Timestamp.Unix()))
	writeNumber(&h, uint64(d.Priority))
	writeNumber(&h, uint64(d.DeliveryMode))
	_, _ = h.Write(d.Body) // writing to a hash cannot fail
	return Identity(h.Sum64() + r.table(d.Headers))
}

// table is a digest of headers in whatever order, without those that the broker changes
// when it hands a message out again.
func (r *Messages) table(t amqp.Table) uint64 {
	var sum uint64
	for name, v := range t {
		if name == "x-delivery-count" || name == "x-acquired-count" {
			continue
		}
		var h maphash.Hash
		h.SetSeed(r.seed)
		writeText(&h, name)
		r.field(&h, v)
		sum += h.Sum64()
	}
	return sum
}

func (r *Messages) field(h *maphash.Hash, v any) {
	switch v := v.(type) {
	case string:
		writeText(h, v)
	case []byte:
		writeText(h, string(v))
	case amqp.Table:
		writeNumber(h, r.table(v))
	case []any:
		writeNumber(h, uint64(len(v)))
		for _, e := range v {
			r.field(h, e)
		}
	case time.Time:
		writeNumber(h, uint64(v.Unix()))
	case float64:
		writeNumber(h, math.Float64bits(v)) // which is not comparable to itself, if it is none
	case float32:
		writeNumber(h, uint64(math.Float32bits(v)))
	case int64:
		writeNumber(h, uint64(v))
	default:
		fmt.Fprintf(h, "%T %v", v, v)
	}
}

func writeText(h *maphash.Hash, s string) {
	writeNumber(h, uint64(len(s))) // so that no two pairs of texts look alike
	_, _ = h.WriteString(s)
}

func writeNumber(h *maphash.Hash, n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = h.Write(b[:])
}
