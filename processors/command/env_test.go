package command

import (
	"slices"
	"strings"
	"testing"
)

func TestVariablesOfTheQueue(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing":           {"", nil},
		"one":               {"A=1", []string{"A=1"}},
		"several":           {"A=1\nb_2=\n\n_=x", []string{"A=1", "b_2=", "_=x"}},
		"comments":          {"# A=1\n; B=2\n  # C=3\n D=4#5 \t\n", []string{"D=4#5"}},
		"URL":               {"URL=postgres://a:b%40c@h1:5432,h2/db?x=1&y='2';#z", []string{"URL=postgres://a:b%40c@h1:5432,h2/db?x=1&y='2';#z"}},
		"spaces":            {"A=two words \nB= three", []string{"A=two words", "B=three"}},
		"quotes":            {"A=\" two \"\nB='$x \\n \"'\nC=\"a\\\"b\\\\c\\$d\\`e\\n\"  ", []string{"A= two ", "B=$x \\n \"", "C=a\"b\\c$d`e\\n"}},
		"many lines":        {"KEY=\"-----BEGIN-----  \n#abc\n\n=\"\nB='\n'", []string{"KEY=-----BEGIN-----  \n#abc\n\n=", "B=\n"}},
		"of Windows":        {"A=1\r\nB=\"2\r\n3\"\r\n", []string{"A=1", "B=2\n3"}},
		"PATH":              {"PATH=/opt/bin", []string{"PATH=/opt/bin"}},
		"no newlines":       {"A=\xff\u00fc", []string{"A=\xff\u00fc"}},
		"as long as may be": {"A=" + strings.Repeat("x", maxVariableBytes-2), []string{"A=" + strings.Repeat("x", maxVariableBytes-2)}},
	} {
		if got, err := parseEnv(test.text); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: got %.300q and %v, want %.300q", name, got, err, test.want)
		}
	}
}

// Every fault is named, and no value is.
func TestFaultsOfVariables(t *testing.T) {
	const secret = "hunter2hunter2"
	text := strings.Join([]string{
		"A=1", secret, "1A=" + secret, "A B=" + secret, "=" + secret, "export C=" + secret, "WARREN_TYPE=" + secret, "TRACEPARENT=" + secret,
		"A=" + secret, "D='" + secret + "' " + secret, "E=" + secret + "\x00", "F=" + strings.Repeat(secret, 10_000), "", "G=\"", secret,
	}, "\n")
	_, err := parseEnv(text)
	if err == nil {
		t.Fatal("got no error")
	}
	var got []string
	for fault := range strings.Lines(err.Error()) {
		got = append(got, strings.TrimSpace(fault))
	}
	form := "it is not of the form NAME=value"
	want := []string{
		"ENV: line 2: " + form, "ENV: line 3: " + form, "ENV: line 4: " + form, "ENV: line 5: " + form, "ENV: line 6: " + form,
		"ENV: line 7: WARREN_TYPE is set by Warren itself", "ENV: line 8: TRACEPARENT is set by Warren itself", "ENV: line 9: A is there twice",
		"ENV: line 10: something follows the closing quote", "ENV: line 11: the value of E has a zero byte", "ENV: line 12: the value of F is longer",
		"ENV: line 14: the quote \" is never closed",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", err, strings.Join(want, "\n"))
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error shows a value: %v", err)
	}
}

func TestVariablesAreNotTooManyForAProgram(t *testing.T) {
	line := "A=" + strings.Repeat("x", 1021) + "\n"
	if _, err := parseEnv(strings.Repeat(line, 513)); err == nil || !strings.HasPrefix(err.Error(), "ENV has 525312 bytes, but may have 524288; ") {
		t.Errorf("got %.100v, want a refusal", err)
	}
}

func FuzzVariables(f *testing.F) {
	f.Add("A=1\nB=\"2\\\"\n3\" \n# c\nC='")
	f.Fuzz(func(t *testing.T, text string) {
		env, err := parseEnv(text)
		if err != nil {
			return
		}
		for _, variable := range env {
			if name, _, ok := strings.Cut(variable, "="); !ok || !isVariableName(name) || strings.Contains(variable, "\x00") {
				t.Errorf("variable %q cannot be given to a program", variable)
			}
		}
	})
}
