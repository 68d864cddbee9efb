// Acme-worker is Warren with a processor of its own, resize.
package main

import (
	"github.com/warrenmq/warren/daemon"
	"github.com/warrenmq/warren/processors"

	"example.com/acme-worker/resize"
)

func main() {
	daemon.Main(processors.Standard().With("resize", func() processors.Config { return new(resize.Config) }))
}
