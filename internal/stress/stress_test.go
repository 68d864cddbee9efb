package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == busyArgument {
		beBusy(os.Stdin)
		return
	}
	os.Exit(m.Run())
}

// written is a module of one package with these tests.
func written(t *testing.T, tests string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module example.com/module\n\ngo 1.26\n",
		"one_test.go": "package module\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\n" + tests,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// stdout is what f writes to standard output.
func stdout(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = before }()
	written := make(chan string)
	go func() {
		text, _ := io.ReadAll(r)
		written <- string(text)
	}()
	f()
	_ = w.Close()
	return <-written
}

func TestFailuresAreCounted(t *testing.T) {
	for _, c := range []struct {
		name, tests string
		failed      bool
		want        []string
		never       string
	}{
		{
			name:  "none",
			tests: `func TestGood(t *testing.T) {}; func TestMain(m *testing.M) { os.Exit(m.Run()) }`,
			want:  []string{"ok    example.com/module", "No test of 1 packages failed in 3 runs each, 2 side by side, with 2 busy processes"},
		},
		{
			name: "a test and a subtest",
			tests: `func TestGood(t *testing.T) {}
				func TestMain(m *testing.M) { os.Exit(m.Run()) }
				func TestFirst(t *testing.T) { if os.Mkdir("begun", 0o700) == nil { t.Error("nobody was before") } }
				func TestOuter(t *testing.T) { t.Run("inner", func(t *testing.T) { t.Error("always") }) }`,
			failed: true,
			want:   []string{"FAIL  example.com/module", "TestFirst failed in 1 of 3 runs", "nobody was before", "TestOuter/inner failed in 3 of 3 runs", "always"},
			never:  "TestOuter failed",
		},
		{
			name:   "the package alone",
			tests:  `func TestGood(t *testing.T) {}; func TestMain(m *testing.M) { m.Run(); println("left behind"); os.Exit(1) }`,
			failed: true,
			want:   []string{"example.com/module failed, but none of its tests", "left behind"},
		},
		{
			name:   "a long log behind it",
			tests:  `func TestLong(t *testing.T) { t.Error("what was wrong", os.Args); for range 100 { t.Log("its log") }; t.Log("its end") }`,
			failed: true,
			want:   []string{"what was wrong", "lines more", "its end"},
		},
		{
			name:   "an exit in a test",
			tests:  `func TestEnds(t *testing.T) { os.Exit(3) }`,
			failed: true,
			want:   []string{"TestEnds failed in 3 of 3 runs"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			written(t, c.tests)
			var failed bool
			var err error
			got := stdout(t, func() { failed, err = stress("go", 3, 2, 2, "", nil) })
			if failed != c.failed || err != nil {
				t.Errorf("stress: got failed %t and error %v, want %t and nil", failed, err, c.failed)
			}
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("output: got\n%s\nwant %q in it", got, want)
				}
			}
			if c.never != "" && strings.Contains(got, c.never) {
				t.Errorf("output: got\n%s\nwant no %q in it", got, c.never)
			}
		})
	}
}

func TestWhatDoesNotBuildIsSaid(t *testing.T) {
	written(t, "func TestGood(t *testing.T) { undefined() }")
	_, err := stress("go", 1, 1, 0, "", nil)
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("stress of what does not build: got error %v, want the compiler's", err)
	}
}

func TestAPackageWithoutTestsIsSaid(t *testing.T) {
	written(t, "")
	if err := os.Rename("one_test.go", "one.go"); err != nil {
		t.Fatal(err)
	}
	_, err := stress("go", 1, 1, 0, "", []string{"./..."})
	if err == nil || !strings.Contains(err.Error(), "none of ./... has tests") {
		t.Errorf("stress without tests: got error %v, want one that says so", err)
	}
}

func TestOneThatIsBusyEndsWithItsParent(t *testing.T) {
	r, w := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		beBusy(r)
	}()
	_ = w.Close()
	<-ended
}
