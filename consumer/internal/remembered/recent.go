package remembered

// Recent are the last deliveries that were acknowledged on a channel. The broker
// hands out no more than the prefetch before it has an acknowledgement: what was
// acknowledged before the last so many has arrived. Only messages that came with an id
// are kept: of others, two that are alike may both have to be worked.
type Recent struct {
	ids  []Identity
	Most int // how many
	next int
}

// Add adds one that was acknowledged.
func (r *Recent) Add(id Identity) {
	if len(r.ids) < r.Most {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % r.Most
}

// IDs returns them, in no order.
func (r *Recent) IDs() []Identity { return r.ids }
