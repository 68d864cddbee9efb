// Package digest tells messages apart.
package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"maps"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Digest is of values of AMQP, each with its kind and length: no two lists of values
// are digested alike. It is the same in every process.
type Digest struct{ hash.Hash }

// New makes the Digest of nothing.
func New() Digest { return Digest{sha256.New()} }

func (h Digest) add(kind byte, bytes []byte) {
	h.number(kind, uint64(len(bytes)))
	_, _ = h.Write(bytes) // a hash does not fail
}

func (h Digest) number(kind byte, n uint64) {
	_, _ = h.Write(binary.BigEndian.AppendUint64([]byte{kind}, n))
}

// Value adds a value: of a number it is the same whatever its type.
func (h Digest) Value(v any) {
	if n, ok := broker.Integer(v); ok {
		h.number('i', uint64(n))
		return
	}
	switch v := v.(type) {
	case string:
		h.add('s', []byte(v))
	case []byte:
		h.add('s', v)
	case time.Time:
		h.number('t', uint64(v.Unix()))
	case amqp.Table:
		h.number('m', uint64(len(v)))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			h.add('k', []byte(name))
			h.Value(v[name])
		}
	case []any:
		h.number('l', uint64(len(v)))
		for _, e := range v {
			h.Value(e)
		}
	default: // few and small
		h.add('v', fmt.Append(nil, v))
	}
}
