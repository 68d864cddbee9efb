package rabbittest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Options are what [Start] starts a node from.
type Options struct {
	// Dir is the folder for all that the node writes: its data, configuration and
	// logs. It is made if it does not exist, and kept when the node stops: a node
	// started from it again has its queues and messages. Required; a folder serves
	// one node at a time.
	Dir string
	// Port is where the node listens for AMQP, on 127.0.0.1. Zero means a free one.
	Port int
	// TLS makes the node listen for AMQP over TLS as well, on a free port, with a
	// certificate for localhost and 127.0.0.1; see [Node.CAFile].
	TLS bool

	member *member // of a cluster; nil: it is one alone
}

// commands are the programs a node takes, by path.
type commands struct {
	server, ctl, epmd, erlCall string
}

// errNoServer names the remedy for every program that may be missing.
var errNoServer = errors.New("no RabbitMQ to start: run apt-get install rabbitmq-server, " +
	"or name the rabbitmq-server command of another one in RABBITMQ_SERVER")

func findCommands() (commands, error) {
	var c commands
	// What stands in PATH on Debian is a wrapper that insists on being root and
	// becomes the user rabbitmq; what it calls works for everyone.
	servers := []string{"/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"}
	if named := os.Getenv("RABBITMQ_SERVER"); named != "" {
		servers = []string{named}
	}
	var err error
	for _, name := range servers {
		if c.server, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return c, fmt.Errorf("%w (%w)", errNoServer, err)
	}
	// Made absolute: the programs start in the node's folder.
	if c.server, err = filepath.Abs(c.server); err != nil {
		return c, err
	}
	c.ctl = filepath.Join(filepath.Dir(c.server), "rabbitmqctl")
	for name, path := range map[string]*string{"epmd": &c.epmd, "erl_call": &c.erlCall} {
		if *path, err = exec.LookPath(name); err != nil {
			return c, fmt.Errorf("%w (%w; on Debian it comes with erlang-base)", errNoServer, err)
		}
	}
	return c, nil
}

// writeFiles writes what the node reads at its start.
func (n *Node) writeFiles() error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	// Small write-ahead logs, because hundreds of short-lived queues share one; no
	// alarm but those that a test asks for.
	conf := fmt.Sprintf(`listeners.tcp.local = %s
loopback_users = none
log.file.level = warning
log.console = false
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 4GB
raft.wal_max_size_bytes = 16777216
`, n.Addr())
	cookieText := rand.Text()
	if n.member != nil {
		conf += n.member.conf()
		cookieText = n.member.cookie
	}
	if n.tlsPort != 0 {
		if err := writeCertificates(n.dir); err != nil {
			return fmt.Errorf("make the node's certificate: %w", err)
		}
		conf += fmt.Sprintf(`listeners.ssl.local = 127.0.0.1:%d
ssl_options.cacertfile = %s
ssl_options.certfile = %s
ssl_options.keyfile = %s
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
`, n.tlsPort, n.path(caFile), n.path(certFile), n.path(keyFile))
	}
	// Whoever knows the cookie may do anything on the node.
	cookie := n.path(".erlang.cookie")
	if err := os.WriteFile(cookie, []byte(cookieText), 0o400); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return errors.Join(
		os.WriteFile(n.path("rabbitmq.conf"), []byte(conf), 0o644),
		os.WriteFile(n.path("enabled_plugins"), []byte("[].\n"), 0o644),
	)
}

// env is the whole environment of the node and of the programs that talk to it.
func (n *Node) env() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"HOME=" + n.dir, // where the cookie is
		"ERL_EPMD_PORT=" + strconv.Itoa(n.epmdPort),
		"ERL_EPMD_ADDRESS=" + n.host(),
		"ERL_CRASH_DUMP_SECONDS=0",
	}
	for name, value := range map[string]string{
		"NODENAME":     n.Name(),
		"USE_LONGNAME": strconv.FormatBool(n.member != nil),
		"DIST_PORT":    strconv.Itoa(n.distPort),
		// Makes the start script become the node instead of waiting for it: the
		// process we started is then the one to signal.
		"ALLOW_INPUT":                "1",
		"SERVER_ADDITIONAL_ERL_ARGS": "-noinput " + n.member.arguments() + "-kernel inet_dist_use_interface {" + strings.ReplaceAll(n.host(), ".", ",") + "}",
		"MNESIA_BASE":                n.path("data"),
		"LOG_BASE":                   n.path("log"),
		"LOGS":                       n.path(logFile),
		"CONFIG_FILE":                n.path("rabbitmq.conf"),
		"ADVANCED_CONFIG_FILE":       n.path("advanced.config"),
		"ENABLED_PLUGINS_FILE":       n.path("enabled_plugins"),
		"CONF_ENV_FILE":              os.DevNull, // the system's own
	} {
		env = append(env, "RABBITMQ_"+name+"="+value)
	}
	return env
}

func (n *Node) path(name string) string { return filepath.Join(n.dir, name) }

const (
	logFile     = "rabbitmq.log"
	consoleFile = "console.log"
)

// lastWords returns the end of what the node wrote, for an error.
func (n *Node) lastWords() string {
	var all []string
	for _, name := range []string{consoleFile, logFile} {
		text, _ := os.ReadFile(n.path(name)) // absent: it said nothing
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		all = append(all, lines[max(0, len(lines)-20):]...)
	}
	return strings.Join(all, "\n")
}
