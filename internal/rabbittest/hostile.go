package rabbittest

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
)

// A Fiend makes messages that nobody in their right mind would publish, the same ones for
// the same seed. It is for one goroutine.
type Fiend struct {
	*rand.Rand
	frameMax int
	user     string
}

// NewFiend makes one that publishes as user on a connection with frames of so many bytes.
func NewFiend(seed uint64, frameMax int, user string) Fiend {
	return Fiend{rand.New(rand.NewPCG(seed, seed)), frameMax, user}
}

// often is true so many times in a hundred.
func (f Fiend) often(percent int) bool { return f.IntN(100) < percent }

func (f Fiend) bytes(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.Uint32())
	}
	return string(b)
}

// text is of any charset, and at most so long.
func (f Fiend) text(most int) string {
	n := f.IntN(most + 1)
	if f.often(20) {
		n = most
	}
	switch f.IntN(6) {
	case 0:
		return f.bytes(n)
	case 1:
		return strings.Repeat("\x00", n)
	case 2:
		return strings.Repeat("\u202e€\U0001f407", most)[:n] // cut within a character, perhaps
	case 3:
		return strings.Repeat("\x1b[2J\r\n'\"$(id)`;{{.}}%s", most)[:n]
	case 4:
		return strconv.FormatInt(int64(f.Uint64()), 10)[:min(n, 15)]
	}
	return strings.Repeat("a", n)
}

// value is of any type, also of none that there is.
func (f Fiend) value(depth int) []byte {
	sizes := map[byte]int{'t': 1, 'B': 1, 'b': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'f': 4, 'D': 5, 'l': 8, 'd': 8, 'T': 8, 'V': 0}
	kind := "tBbsuIifDldTVSSxAF"[f.IntN(18)]
	if f.often(1) {
		kind = byte(f.Uint32())
	}
	switch size, plain := sizes[kind]; {
	case plain:
		return append([]byte{kind}, f.bytes(size)...)
	case kind == 'F' && depth > 0:
		return RawNested(f.table(depth - 1))
	case kind == 'A' && depth > 0:
		var values [][]byte
		for range f.IntN(4) {
			values = append(values, f.value(depth-1))
		}
		return RawArray(values...)
	default:
		value := RawString(f.text(1000))
		if kind == 'x' || f.often(2) {
			value[0] = kind
		}
		return value
	}
}

func (f Fiend) table(depth int) []byte {
	names := []string{"x-delay", "x-warren-attempt", "x-warren-error", "x-warren-reply-to", "x-warren-routing-key", "x-warren-unreadable", "x-delivery-count", "traceparent", "x-death", "CC"}
	var fields [][]byte
	for range f.IntN(6) {
		name := f.text(255)
		value := f.value(depth)
		if f.often(20) {
			if name = names[f.IntN(len(names))]; name == "x-delay" { // none that has anybody wait for days
				delays := [][]byte{RawInt(int64(f.IntN(1500))), RawInt(-1), RawInt(1 << 62), RawString("soon"), RawNested(f.table(0)), {'V'}}
				value = delays[f.IntN(len(delays))]
			}
		}
		fields = append(fields, RawField(name, value))
	}
	return RawTable(fields...)
}

func (f Fiend) headers() []byte {
	switch f.IntN(30) {
	case 0:
		return RawDeep(30 + f.IntN(6))
	case 1:
		return RawDeep(f.IntN(3000))
	case 2:
		return RawWide(8190 + f.IntN(5))
	case 3:
		return RawTable(RawField("l", RawLong(8190+f.IntN(5))))
	case 4:
		return RawTable(RawField("l", RawString(strings.Repeat("x", f.frameMax-f.IntN(1000)))))
	case 5:
		fill := RawString(strings.Repeat("x", max(0, f.frameMax-500-f.IntN(1000))))
		return RawTable(RawField("l", fill), RawField("d", RawNested(RawDeep(33))))
	}
	return f.table(f.IntN(6))
}

// Properties returns those of a message, for [RawProperties]; id tells it from others.
func (f Fiend) Properties(id int) map[string]any {
	p := map[string]any{"headers": f.headers(), "delivery-mode": byte(2)}
	for _, name := range []string{"content-type", "content-encoding", "correlation-id", "type", "app-id", "cluster-id"} {
		if f.often(30) {
			p[name] = f.text(255)
		}
	}
	if f.often(90) { // or it has none; no two have the same
		p["message-id"] = strconv.Itoa(id) + " " + f.text(240)
	}
	if f.often(30) {
		to := []string{"answers", f.text(255), "warren.wait.x", "innocent", "nobody", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to." + f.text(200)}
		p["reply-to"] = to[f.IntN(len(to))]
	}
	if f.often(10) {
		p["priority"] = byte(f.Uint32())
	}
	if f.often(10) {
		p["timestamp"] = f.Uint64()
	}
	if f.often(5) {
		p["expiration"] = []string{"0", "100000", f.text(20)}[f.IntN(3)]
	}
	if f.often(3) {
		p["user-id"] = []string{"guest", f.user, f.text(255)}[f.IntN(3)]
	}
	if f.often(5) {
		p["delivery-mode"] = byte(f.Uint32())
	}
	return p
}

// Body returns that of a message, which is good or a variation of that.
func (f Fiend) Body(good string) []byte {
	switch f.IntN(12) {
	case 0:
		return nil
	case 1:
		return []byte(f.bytes(f.IntN(2000)))
	case 2:
		return bytes.Repeat([]byte("["), f.IntN(100_000))
	case 3:
		return make([]byte, f.IntN(2<<20))
	case 4:
		return []byte("\xef\xbb\xbf" + good)
	case 5:
		return []byte(good[:f.IntN(len(good))])
	case 6:
		return []byte("\x1f\x8b" + f.bytes(100))
	case 7:
		return []byte(strings.Replace(good, "a", `\ud800`, 1))
	case 8:
		return []byte(strings.Replace(good, "a", f.text(100), 1))
	case 9:
		return []byte(strings.ReplaceAll(good, "a", "9e999"))
	}
	return []byte(good)
}
