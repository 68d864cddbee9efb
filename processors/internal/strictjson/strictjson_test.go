package strictjson

import (
	"encoding/json"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
)

type order struct {
	Name  string          `json:"name"`
	Lines []line          `json:"lines"`
	Buyer *buyer          `json:"buyer"`
	Raw   json.RawMessage `json:"raw"`
	Data  Values          `json:"data"`
}

type line struct {
	Article string `json:"article"`
	Content []byte `json:"content"`
}

type buyer struct {
	City string `json:"city"`
}

func TestDecode(t *testing.T) {
	var got order
	body := `{"name": "Zoë \ud83d\ude00 \\ud83d", "lines": [{"article": "a"}, {}], "buyer": {"city": "Łódź"}, "raw": {"any": [1.50]},
		"data": {"whole": 9007199254740993, "half": 0.5, "huge": 1e999, "list": [{"n": 12345678}], "none": null}}`
	if err := Body(consumer.Delivery{Body: []byte(body), ContentEncoding: "utf-8"}, &got, ""); err != nil {
		t.Fatal(err)
	}
	want := order{Name: `Zoë 😀 \ud83d`, Lines: []line{{Article: "a"}, {}}, Buyer: &buyer{"Łódź"}, Raw: json.RawMessage(`{"any": [1.50]}`), Data: Values{
		"whole": int64(9007199254740993), "half": 0.5, "huge": "1e999", "none": nil,
		"list": []any{map[string]any{"n": int64(12345678)}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

func TestBodyThatIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		body, encoding string
		texts          []string
	}{
		"empty":                      {" \n", "", []string{"it is empty"}},
		"no JSON":                    {"hello", "", []string{"invalid character 'h'"}},
		"more than one value":        {`{} {}`, "", []string{"after top-level value"}},
		"Latin-1":                    {"{\"name\": \"Gr\xfc\xdfe\"}", "", []string{"not UTF-8", "byte 12 is 0xfc"}},
		"Latin-1 in a name":          {"{\"raw\": {\"gr\xfc\": 1}}", "", []string{"not UTF-8"}},
		"half a character":           {`{"name": "\ud83d"}`, "", []string{`\ud83d at byte 10 is half of a character`}},
		"the other half":             {`{"data": {"x": "\\\ude00x"}}`, "", []string{`\ude00`, "half"}},
		"two first halves":           {`{"name": "\ud83d\ud83d"}`, "", []string{"half"}},
		"byte order mark":            {"\ufeff{}", "", []string{"byte order mark"}},
		"UTF-16":                     {"\xff\xfe{\x00}\x00", "", []string{"UTF-16"}},
		"gzip":                       {"\x1f\x8b\x08\x00", "", []string{"compressed with gzip"}},
		"encoding":                   {`{}`, "deflate", []string{`content encoding "deflate"`}},
		"unknown field":              {`{"nmae": ""}`, "", []string{`unknown field "nmae"; the fields are name and so on`}},
		"unknown field of a list":    {`{"lines": [{}, {"content": null, "artcle": 1}]}`, "", []string{`"lines[1].artcle"`}},
		"unknown field of an object": {`{"buyer": {"town": 1}}`, "", []string{`"buyer.town"`}},
		"another type":               {`{"name": 1}`, "", []string{"name"}},
	} {
		t.Run(name, func(t *testing.T) {
			var o order
			err := Body(consumer.Delivery{Body: []byte(test.body), ContentEncoding: test.encoding}, &o, "name and so on")
			if got := consumer.VerdictOf(err); got != "dead" {
				t.Fatalf("got %s (%v), want dead", got, err)
			}
			for _, text := range test.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("got %v\nwant %q in it", err, text)
				}
			}
		})
	}
}

// A base64 of n bytes becomes the content of 3/4 of that, and nothing else of its size.
func TestDecodeDoesNotCopy(t *testing.T) {
	const size = 8 << 20
	body := []byte(`{"lines": [{"content": "` + strings.Repeat("AAAA", size/4) + `"}]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var o order
	if err := Decode(body, &o); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(size); got > most {
		t.Errorf("a body of %d bytes took %d more, want at most %d", len(body), got, most)
	}
	if len(o.Lines[0].Content) != size/4*3 {
		t.Errorf("got %d bytes of content", len(o.Lines[0].Content))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name": "\ud83d\ude00", "lines": [{"content": "AA=="}]}`))
	f.Add([]byte(`{"raw": "\u`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o order
		if Decode(data, &o) != nil {
			return
		}
		// What is taken can be told again without a replacement that was not there.
		if strings.Contains(o.Name, "\ufffd") && !strings.Contains(string(data), "\ufffd") && !strings.Contains(strings.ToLower(string(data)), `\ufffd`) {
			t.Errorf("%q was changed to %q", data, o.Name)
		}
	})
}

// TestTheRemedyOfABodyThatIsNoUTF8Cures encodes the text, as the error says.
func TestTheRemedyOfABodyThatIsNoUTF8Cures(t *testing.T) {
	var o order
	err := Body(consumer.Delivery{Body: []byte("{\"name\": \"Gr\xfc\xdfe\"}")}, &o, "")
	if err == nil || !strings.Contains(err.Error(), "encode the text as UTF-8 before it is published") {
		t.Fatalf("the error %v does not name the remedy", err)
	}
	if err := Body(consumer.Delivery{Body: []byte(`{"name": "Grüße"}`)}, &o, ""); err != nil || o.Name != "Grüße" {
		t.Errorf("with the remedy followed: %q, %v", o.Name, err)
	}
}
