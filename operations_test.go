package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLogLinesAreDocumented holds the table of docs/operations.md against the messages in
// the source: it has all of those that are warnings or errors, and none that there is not.
func TestLogLinesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string) // level by message
	for _, row := range regexp.MustCompile("(?m)^\\| (info|warn|error) \\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[2]] = row[1]
	}
	logged := logMessages(t)
	if len(logged) < 20 {
		t.Fatalf("messages found in the source: got %d, want more", len(logged))
	}
	for message, level := range logged {
		if strings.HasPrefix(message, "opentelemetry") {
			continue
		}
		if level != "info" && documented[message] != level {
			t.Errorf("docs/operations.md: got %q for %q, want %s", documented[message], message, level)
		}
	}
	for message := range documented {
		if _, ok := logged[message]; !ok {
			t.Errorf("docs/operations.md has %q, which nothing logs", message)
		}
	}
}

// logMessages are the constant messages of the log calls in the source, tests apart,
// with their levels. What is logged at a level of its own, as outages are, has that as its
// argument before the message.
func logMessages(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	methods := map[string]string{"Info": "info", "End": "info", "Warn": "warn", "Error": "error", "logFailure": "warn", "LevelWarn": "warn", "LevelError": "error"}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another test has just removed it
		case err != nil:
			return err
		case entry.IsDir() && (slices.Contains([]string{"internal", ".git", ".ci", "examples", "consumer/consumertest"}, path) || strings.HasPrefix(entry.Name(), "_")):
			return filepath.SkipDir // whose log is not the daemon's
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		constants := constantsOf(file)
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			level := methods[method.Sel.Name]
			args := call.Args
			if method.Sel.Name == "Info" || method.Sel.Name == "Warn" || method.Sel.Name == "Error" {
				args = args[:min(1, len(args))] // the message comes first
			}
			for _, arg := range args {
				switch arg := arg.(type) {
				case *ast.SelectorExpr:
					if l, ok := methods[arg.Sel.Name]; ok {
						level = l
					}
				case *ast.Ident:
					if message := constants[arg.Name]; message != "" && level != "" {
						out[message] = level
						return true
					}
				case *ast.BasicLit:
					if message, err := strconv.Unquote(arg.Value); err == nil && level != "" && arg.Kind == token.STRING {
						out[message] = level
					}
					return true // only the first string is the message
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// constantsOf are the constants of a file that are strings, by their names.
func constantsOf(file *ast.File) map[string]string {
	out := make(map[string]string)
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, s := range decl.Specs {
			spec, ok := s.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, value := range spec.Values {
				if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					out[spec.Names[i].Name], _ = strconv.Unquote(literal.Value)
				}
			}
		}
	}
	return out
}
