package browsertest

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/png"
	"slices"
)

// Small is a PNG with a palette of 256 colours at most in place of each pixel's own: a
// quarter of the bytes, and of a page of text nobody sees the difference.
func Small(picture []byte) ([]byte, error) {
	from, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	bounds := from.Bounds()
	counts := make(map[color.RGBA]int)
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(from.At(x, y)).(color.RGBA) }
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	palette := paletteOf(counts)
	index := make(map[color.RGBA]uint8, len(counts))
	for c := range counts {
		index[c] = uint8(palette.Index(c))
	}
	to := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			to.SetColorIndex(x, y, index[at(x, y)])
		}
	}
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, to)
	return out.Bytes(), err
}

// paletteOf halves the colours until there are 256 sets, each time the widest set at its
// middle colour, and takes the most frequent colour of each.
func paletteOf(counts map[color.RGBA]int) color.Palette {
	all := make([]color.RGBA, 0, len(counts))
	for c := range counts {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { // for the same bytes every time
		return cmp.Or(cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B), cmp.Compare(a.A, b.A))
	})
	sets := [][]color.RGBA{all}
	for len(sets) < 256 {
		widest, along, most := 0, 0, 0
		for i, set := range sets {
			if channel, width := spread(set); width > most {
				widest, along, most = i, channel, width
			}
		}
		if most == 0 { // each has one colour
			break
		}
		set := sets[widest]
		slices.SortStableFunc(set, func(a, b color.RGBA) int { return cmp.Compare(channels(a)[along], channels(b)[along]) })
		sets[widest] = set[:len(set)/2]
		sets = append(sets, set[len(set)/2:])
	}
	var palette color.Palette
	for _, set := range sets {
		palette = append(palette, slices.MaxFunc(set, func(a, b color.RGBA) int { return cmp.Compare(counts[a], counts[b]) }))
	}
	return palette
}

func channels(c color.RGBA) [3]int { return [3]int{int(c.R), int(c.G), int(c.B)} }

// spread is the channel in which the colours differ most, and by how much.
func spread(set []color.RGBA) (channel, width int) {
	low, high := channels(set[0]), channels(set[0])
	for _, c := range set {
		for i, v := range channels(c) {
			low[i], high[i] = min(low[i], v), max(high[i], v)
		}
	}
	for i := range low {
		if w := high[i] - low[i]; w > width {
			channel, width = i, w
		}
	}
	return channel, width
}
