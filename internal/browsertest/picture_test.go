package browsertest

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"testing"
)

func TestSmallPictures(t *testing.T) {
	few := image.NewRGBA(image.Rect(0, 0, 100, 100)) // 100 colours
	many := image.NewRGBA(few.Bounds())              // 10,000
	for y := range 100 {
		for x := range 100 {
			few.SetRGBA(x, y, color.RGBA{uint8(x / 10 * 25), uint8(y / 10 * 25), 7, 255})
			many.SetRGBA(x, y, color.RGBA{uint8(2 * x), uint8(2 * y), uint8(x + y), 255})
		}
	}
	for _, test := range []struct {
		from *image.RGBA
		most int // that a channel may differ by
	}{{few, 0}, {many, 24}} {
		var before bytes.Buffer
		if err := png.Encode(&before, test.from); err != nil {
			t.Fatal(err)
		}
		after, err := Small(before.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		got, err := png.Decode(bytes.NewReader(after))
		if _, paletted := got.(*image.Paletted); err != nil || !paletted {
			t.Fatalf("got a %T, %v; want one with a palette", got, err)
		}
		for y := range 100 {
			for x := range 100 {
				is, was := channels(color.RGBAModel.Convert(got.At(x, y)).(color.RGBA)), channels(test.from.RGBAAt(x, y))
				for i := range is {
					if d := is[i] - was[i]; d > test.most || -d > test.most {
						t.Fatalf("at %d, %d: got %v, want %v within %d", x, y, is, was, test.most)
					}
				}
			}
		}
	}
}
