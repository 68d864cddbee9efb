package settings

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors"
)

var update = flag.Bool("update", false, "write config.example.env anew")

const exampleFile = "../../../config.example.env"

// The file says what config --example does: every variable, its default, its explanation.
func TestExampleFileIsWhatIsPrinted(t *testing.T) {
	want := Example(standard)
	if *update {
		if err := os.WriteFile(exampleFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the tags of the settings say; write it anew with: go test ./daemon/internal/settings -run Example -update", exampleFile)
	}
	for _, name := range standard.Names() {
		if !strings.Contains(want, "_PROCESSOR="+name+"\n") {
			t.Errorf("the example has no queue with the processor %s", name)
		}
	}
}

// The daemon takes the file as it is, and it makes no difference to write the
// defaults down.
func TestExampleIsAccepted(t *testing.T) {
	var set, all []string
	for line := range strings.Lines(Example(standard)) {
		line = strings.TrimSpace(line)
		name, value, isVariable := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if !isVariable || !strings.HasPrefix(name, prefix) {
			continue
		}
		entry := name + "=" + strings.Trim(value, `"`)
		if strings.HasSuffix(name, "_MAILDIR") {
			entry = name + "=" + filepath.Join(t.TempDir(), "mail")
		}
		switch {
		case !strings.HasPrefix(line, "#"):
			set = append(set, entry)
		case value != "" && !strings.HasPrefix(name, "WARREN_QUEUE_REPORT_") && !strings.HasPrefix(name, "WARREN_QUEUE_SQL_"):
			all = append(all, entry)
		}
	}
	all = slices.Concat(set, all)
	if len(set) < 11 || len(all) < 2*len(set) {
		t.Fatalf("found %d variables that are set and %d in all: the example is not as expected", len(set), len(all))
	}
	loaded := func(entries []string) consumer.Config {
		setenv(t, entries...)
		cfg, err := Load(program, io.Discard)
		if err != nil {
			t.Fatalf("with %q: %v", entries, err)
		}
		for i := range cfg.Consumer.Queues {
			cfg.Consumer.Queues[i].Processor = nil
		}
		return cfg.Consumer
	}
	if got, want := loaded(all), loaded(set); !reflect.DeepEqual(got, want) {
		t.Errorf("with the defaults written down: got %+v, want %+v", got, want)
	}
}

type resizeConfig struct {
	Folder string `envconfig:"FOLDER" required:"true" desc:"Where the images are."`
	Width  int    `envconfig:"WIDTH" default:"800" positive:"true" desc:"How wide they become."`
}

func (*resizeConfig) Validate(processors.Queue) error { return nil }
func (*resizeConfig) Open(processors.Queue, *slog.Logger) (consumer.Processor, error) {
	return unopened, nil
}

// What a program adds of its own is in all that is printed as what comes with Warren is.
func TestProcessorOfOnesOwn(t *testing.T) {
	own := standard.With("resize", func() processors.Config { return new(resizeConfig) })
	if want := "What is done with a delivery: command, email, log, report, resize, sql or webhook."; !strings.Contains(Example(own), want) {
		t.Errorf("the example does not say %q", want)
	}
	for _, want := range []string{"\n#WARREN_QUEUE_RESIZE_WIDTH=800\n", "\n#WARREN_QUEUE_RESIZE_PROCESSOR=resize\n", "has to be named in WARREN_QUEUES, and FOLDER set.\n"} {
		if !strings.Contains(Example(own), want) {
			t.Errorf("the example lacks %q:\n%s", want, Example(own))
		}
	}
	setenv(t, "WARREN_QUEUES=images", "WARREN_QUEUE_IMAGES_PROCESSOR=resize", "WARREN_QUEUE_IMAGES_WIDHT=1")
	_, err := Load(Program{"acme", "v1", own}, io.Discard)
	for _, want := range []string{"WARREN_QUEUE_IMAGES_FOLDER must be set: where the images are", "WARREN_QUEUE_IMAGES_WIDHT is unknown; the nearest known name is WARREN_QUEUE_IMAGES_WIDTH"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %q in it", err, want)
		}
	}
	alone := processors.Set{}.With("resize", func() processors.Config { return new(resizeConfig) })
	setenv(t, "WARREN_QUEUES=images", "WARREN_QUEUE_IMAGES_PROCESSOR=email")
	if _, err := Load(Program{"acme", "v1", alone}, io.Discard); err == nil || !strings.Contains(err.Error(), `WARREN_QUEUE_IMAGES_PROCESSOR is "email"; it must be one of resize`) {
		t.Errorf("got %v, want that there is only resize", err)
	}
	if got := Example(alone); strings.Contains(got, "\nWARREN") {
		t.Errorf("with nothing that works without more, the example sets\n%s", got)
	}
}
