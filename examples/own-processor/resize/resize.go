// Package resize makes images smaller.
//
// The body of a delivery is a JSON object:
//
//	{"image": "cats/tom.jpg", "width": 320}
//
// The image is a file of the folder IMAGES, a JPEG or PNG. The smaller one appears in the
// folder RESIZED under the same name, with its width: cats-tom-320.png. The result is a
// JSON object with its file, width and height.
package resize

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // a format that is read
	"image/png"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/image/draw"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/registry"
)

// Config is what the processor is made from: the variables of a queue.
type Config struct {
	Images   string `envconfig:"IMAGES" required:"true" desc:"The folder with the images."`
	Resized  string `envconfig:"RESIZED" required:"true" desc:"The folder that the smaller ones go to; it is made if absent."`
	MaxWidth int    `envconfig:"MAX_WIDTH" default:"2000" positive:"true" desc:"The greatest width that a message may ask for, in pixels."`
}

// Validate looks whether the images are there. It makes nothing: warren check calls it,
// and whoever runs that may be another user on another day.
func (c *Config) Validate(registry.Queue) error {
	var faults []error
	if info, err := os.Stat(c.Images); err != nil {
		faults = append(faults, fmt.Errorf("IMAGES: %w; name the folder with the images", err))
	} else if !info.IsDir() {
		faults = append(faults, fmt.Errorf("IMAGES: %s is no folder; name the one with the images", c.Images))
	}
	if c.MaxWidth > 20000 {
		faults = append(faults, fmt.Errorf("MAX_WIDTH is %d; it must be 20000 or less, or one image would take all memory", c.MaxWidth))
	}
	return errors.Join(faults...)
}

// Open makes what all deliveries share: here, the two folders, out of which no path in a
// message leads.
func (c *Config) Open(_ registry.Queue, _ *slog.Logger) (consumer.Processor, error) {
	images, err := os.OpenRoot(c.Images)
	if err != nil {
		return nil, fmt.Errorf("IMAGES: %w", err)
	}
	err = os.MkdirAll(c.Resized, 0o750)
	var resized *os.Root
	if err == nil {
		resized, err = os.OpenRoot(c.Resized)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("RESIZED: %w", err), images.Close())
	}
	return &processor{images, resized, c.MaxWidth}, nil
}

type processor struct {
	images, resized *os.Root
	maxWidth        int
}

// Close closes the folders, once no delivery is processed any more.
func (p *processor) Close() error { return errors.Join(p.images.Close(), p.resized.Close()) }

type message struct {
	Image string `json:"image"`
	Width int    `json:"width"`
}

type result struct {
	File   string `json:"file"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
}

// Process makes an image smaller. Many deliveries are processed at once.
func (p *processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	return consumer.JSON(p.resize).Process(ctx, d, scope)
}

func (p *processor) resize(_ context.Context, msg message, scope *consumer.Scope) error {
	if msg.Width < 1 || msg.Width > p.maxWidth {
		// No retry makes this message better: it is dead-lettered at once.
		return consumer.Permanent(fmt.Errorf("width is %d; it must be from 1 to %d", msg.Width, p.maxWidth))
	}
	original, err := p.read(msg.Image)
	if err != nil {
		return err
	}
	size := original.Bounds()
	smaller := image.NewRGBA(image.Rect(0, 0, msg.Width, max(1, msg.Width*size.Dy()/size.Dx())))
	draw.CatmullRom.Scale(smaller, smaller.Bounds(), original, size, draw.Src, nil)

	name := strings.TrimSuffix(msg.Image, filepath.Ext(msg.Image))
	name = fmt.Sprintf("%s-%d.png", strings.ReplaceAll(name, "/", "-"), msg.Width)
	if err := p.write(name, smaller); err != nil {
		return fmt.Errorf("write %s: %w", name, err) // tried again: the disk may be full
	}
	scope.Logger().Info("image resized", "image", msg.Image, "file", name)
	body, err := json.Marshal(result{name, msg.Width, smaller.Bounds().Dy()})
	if err != nil {
		return err
	}
	scope.SetResult(consumer.Result{Body: body}) // for a message with reply-to
	return nil
}

func (p *processor) read(name string) (image.Image, error) {
	if !filepath.IsLocal(name) {
		return nil, consumer.Permanent(fmt.Errorf("image is %q; it must be a path within IMAGES", name))
	}
	f, err := p.images.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, consumer.Permanent(err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	img, _, err := image.Decode(f)
	if errors.Is(err, image.ErrFormat) || err == nil && img.Bounds().Empty() {
		return nil, consumer.Permanent(fmt.Errorf("%s is neither a JPEG nor a PNG", name))
	}
	return img, err
}

// write has the file appear whole. An attempt may be repeated, so that a repeat has to do
// no harm: it replaces the file with the same one.
func (p *processor) write(name string, img image.Image) error {
	draft := ".draft-" + rand.Text() // not even another attempt at the same message writes to it
	f, err := p.resized.Create(draft)
	if err != nil {
		return err
	}
	if err := errors.Join(png.Encode(f, img), f.Close()); err != nil {
		return errors.Join(err, p.resized.Remove(draft))
	}
	return p.resized.Rename(draft, name)
}
