package consumer

import (
	"hash/maphash"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	amqp "github.com/rabbitmq/amqp091-go"
)

// rememberedMost bounds what one queue remembers.
const rememberedMost = 10_000

// remembered are the messages whose work is done but whose acknowledgement could
// not be sent, because their session was lost. The broker will hand them out once
// more. It belongs to the loop of one queue.
type remembered struct {
	seen *lru.LRU[identity, struct{}]
	seed maphash.Seed
}

// An identity tells one life of a message from another. The message id alone is
// not enough: a message that waits for its next attempt keeps its id, and
// publishers have been seen to use one id for many messages.
type identity struct {
	messageID string
	attempt   int64
	failedAt  int64
	body      uint64
}

func newRemembered() *remembered {
	seen, err := lru.NewLRU[identity, struct{}](rememberedMost, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &remembered{seen, maphash.MakeSeed()}
}

func (r *remembered) identityOf(d *amqp.Delivery) identity {
	attempt, _ := integer(d.Headers[headerAttempt])
	failedAt, _ := integer(d.Headers[headerFailedAt])
	return identity{d.MessageId, attempt, failedAt, maphash.Bytes(r.seed, d.Body)}
}

// add remembers d. A message without an id cannot be recognised, and is not.
func (r *remembered) add(d *amqp.Delivery) {
	if d.MessageId != "" {
		r.seen.Add(r.identityOf(d), struct{}{})
	}
}

// take tells whether d is a repeat of a remembered message, and forgets it.
func (r *remembered) take(d *amqp.Delivery) bool {
	if !d.Redelivered || d.MessageId == "" || r.seen.Len() == 0 {
		return false
	}
	return r.seen.Remove(r.identityOf(d))
}
