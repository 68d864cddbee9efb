package cli

import (
	"io"

	"github.com/warrenmq/warren/daemon/internal/settings"
)

type configCommand struct {
	Example bool `help:"Print an environment file with every variable there is instead."`
}

// Run prints what the environment configures, whether or not the daemon would start with
// it. It returns an error that names every fault if it would not.
func (c configCommand) Run(a App) error {
	if c.Example {
		_, err := io.WriteString(a.Out, settings.Example(a.Processors))
		return err
	}
	return settings.Print(a.Program, a.Out)
}
