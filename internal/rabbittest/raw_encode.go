package rabbittest

import (
	"encoding/binary"
	"fmt"
)

// properties are the names of a message's properties, in their order on the wire.
var properties = []string{
	"content-type", "content-encoding", "headers", "delivery-mode", "priority", "correlation-id", "reply-to",
	"expiration", "message-id", "timestamp", "type", "user-id", "app-id", "cluster-id",
}

// RawProperties encodes the properties of a message: those that are named, with a string
// (at most 255 bytes, of any kind), a byte (delivery-mode, priority), a uint64
// (timestamp), or bytes that are encoded already ([RawTable] for headers). It panics at
// another name or type.
func RawProperties(values map[string]any) []byte {
	var flags uint16
	var list []byte
	known := 0
	for i, name := range properties {
		value, ok := values[name]
		if !ok {
			continue
		}
		known++
		flags |= 1 << (15 - i)
		switch v := value.(type) {
		case string:
			list = append(list, shortString(v)...)
		case byte:
			list = append(list, v)
		case uint64:
			list = binary.BigEndian.AppendUint64(list, v)
		case []byte:
			list = append(list, v...)
		default:
			panic(fmt.Sprintf("rabbittest: property %s is a %T", name, value))
		}
	}
	if known != len(values) {
		panic(fmt.Sprintf("rabbittest: one of the properties %v is unknown", values))
	}
	return append(binary.BigEndian.AppendUint16(nil, flags), list...)
}

// RawTable encodes a table of fields, each from [RawField].
func RawTable(fields ...[]byte) []byte { return longString(join(fields)) }

// RawField encodes a field of a table. The value begins with the octet of its type: see
// [RawString], [RawInt], [RawNested] and [RawArray].
func RawField(name string, value []byte) []byte { return append(shortString(name), value...) }

// RawString encodes a long string, of any bytes, as a value.
func RawString(s string) []byte { return append([]byte{'S'}, longString(s)...) }

// RawInt encodes a number of 64 bits as a value.
func RawInt(n int64) []byte { return binary.BigEndian.AppendUint64([]byte{'l'}, uint64(n)) }

// RawNested makes a value of a table.
func RawNested(table []byte) []byte { return append([]byte{'F'}, table...) }

// RawArray encodes an array of values as a value.
func RawArray(values ...[]byte) []byte { return append([]byte{'A'}, longString(join(values))...) }

// RawDeep encodes a table within depth others: the innermost is empty, and RawDeep(0) is
// that alone.
func RawDeep(depth int) []byte {
	table := RawTable()
	for range depth {
		table = RawTable(RawField("t", RawNested(table)))
	}
	return table
}

// RawWide encodes a table of n fields, each of them true.
func RawWide(n int) []byte {
	fields := make([][]byte, n)
	for i := range fields {
		fields[i] = RawField(fmt.Sprintf("%05d", i), []byte{'t', 1})
	}
	return RawTable(fields...)
}

// RawLong encodes an array of n values, each of them true, as a value.
func RawLong(n int) []byte {
	values := make([][]byte, n)
	for i := range values {
		values[i] = []byte{'t', 1}
	}
	return RawArray(values...)
}

func join(parts [][]byte) string {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return string(all)
}

func shortString(s string) []byte {
	if len(s) > 255 {
		panic(fmt.Sprintf("rabbittest: a short string of %d bytes", len(s)))
	}
	return append([]byte{byte(len(s))}, s...)
}

func longString(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func cutShortString(b []byte) (s string, rest []byte) {
	n := int(b[0])
	return string(b[1 : 1+n]), b[1+n:]
}
