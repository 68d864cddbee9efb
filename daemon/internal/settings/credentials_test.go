package settings

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The units load a credential for each secret of the daemon, and the example names them.
func TestUnitsLoadTheSecretsOfTheDaemon(t *testing.T) {
	tags, err := os.ReadFile("structs.go")
	if err != nil {
		t.Fatal(err)
	}
	secrets := regexp.MustCompile("`envconfig:\"([A-Z_]+)\".* secret:\"true\"").FindAllSubmatch(tags, -1)
	if len(secrets) < 10 {
		t.Errorf("structs.go has %d secrets, want 10 at least", len(secrets))
	}
	for _, file := range []string{"units/warren.service", "units/warren@.service", "examples/credentials.conf"} {
		text, err := os.ReadFile("../../../systemd/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range secrets {
			line := "LoadCredential=warren_" + strings.ToLower(string(s[1])) + "\n"
			if !strings.Contains(string(text), line) {
				t.Errorf("systemd/%s does not have %q", file, line)
			}
		}
	}
}
