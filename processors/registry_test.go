package processors_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/warrenmq/warren/processors"
)

func TestNames(t *testing.T) {
	want := []string{"command", "email", "log", "report", "sql", "webhook"}
	if got := processors.Names(); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
}

func TestLookup(t *testing.T) {
	if cfg, ok := processors.Lookup("comand"); ok || cfg != nil {
		t.Errorf("Lookup of an unknown name returned %v, %v; want nil, false", cfg, ok)
	}
	for _, name := range processors.Names() {
		first, ok := processors.Lookup(name)
		second, _ := processors.Lookup(name)
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
