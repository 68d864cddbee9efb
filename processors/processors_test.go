package processors_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/processors"
)

func TestNames(t *testing.T) {
	want := []string{"command", "email", "log", "report", "sql", "webhook"}
	if got := processors.Standard().Names(); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
}

func TestLookup(t *testing.T) {
	if cfg, ok := processors.Standard().Lookup("comand"); ok || cfg != nil {
		t.Errorf("Lookup of an unknown name returned %v, %v; want nil, false", cfg, ok)
	}
	for _, name := range processors.Standard().Names() {
		first, ok := processors.Standard().Lookup(name)
		second, _ := processors.Standard().Lookup(name)
		settings := reflect.ValueOf(first)
		if !ok || settings.Kind() != reflect.Pointer || !settings.Elem().IsZero() {
			t.Fatalf("Lookup(%q) returned %#v, %v; want an empty Config", name, first, ok)
		}
		if settings.Elem().NumField() > 0 && first == second {
			t.Errorf("Lookup(%q) returned the same Config twice; two queues would share it", name)
		}
		for field := range settings.Elem().Type().Fields() {
			if !field.IsExported() {
				continue
			}
			if field.Tag.Get("envconfig") == "" || field.Tag.Get("desc") == "" {
				t.Errorf("field %s of %s has the tags %s, want envconfig and desc among them", field.Name, name, field.Tag)
			}
		}
	}
}

type (
	config  struct{ processors.Config }
	another struct{ processors.Config }
)

func TestASetNeverChanges(t *testing.T) {
	var none processors.Set
	one := none.With("resize", func() processors.Config { return new(config) })
	other := one.With("resize", func() processors.Config { return new(another) }).With("crop", func() processors.Config { return new(config) })
	if len(none.Names()) != 0 || !slices.Equal(one.Names(), []string{"resize"}) || !slices.Equal(other.Names(), []string{"crop", "resize"}) {
		t.Errorf("names %q, %q, %q; want none, resize, and crop and resize", none.Names(), one.Names(), other.Names())
	}
	if cfg, _ := one.Lookup("resize"); reflect.TypeOf(cfg) != reflect.TypeFor[*config]() {
		t.Error("replacing a processor in another Set has replaced it in the first")
	}
	if cfg, _ := other.Lookup("resize"); reflect.TypeOf(cfg) != reflect.TypeFor[*another]() {
		t.Error("With has not replaced the processor of that name")
	}
}

func TestAConfigThatCannotBeReadInto(t *testing.T) {
	for what, cfg := range map[string]processors.Config{"a struct": config{}, "nothing": nil} {
		func() {
			defer func() {
				if text, _ := recover().(string); !strings.Contains(text, "processor resize") || !strings.Contains(text, "make it a pointer to a struct") {
					t.Errorf("%s: With panics with %q, want the processor's name and what to do", what, text)
				}
			}()
			processors.Set{}.With("resize", func() processors.Config { return cfg })
		}()
	}
}
