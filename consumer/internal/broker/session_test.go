package broker

import (
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A queue may begin to use a session in the moment in which the last one that has used it leaves it.
func TestASessionIsUsedOnceMoreWhileItRetires(t *testing.T) {
	s := &Session{unused: make(chan struct{})}
	unused := s.unused
	for range 2 {
		s.Use()
		s.Leave()
	}
	select {
	case <-unused:
	default:
		t.Error("it does not count as unused")
	}
}

// What is published over a connection that is replaced may never be answered, as long as the
// broker has an alarm. A stop ends that, direct replies included.
func TestAFinishThatIsNotAnsweredIsCutShort(t *testing.T) {
	v := rabbittest.NewVhost(t)
	c, err := Dialer{}.Dial(t.Context(), v.URL, Options{Purpose: "publish"})
	if err != nil {
		t.Fatal(err)
	}
	direct, err := c.directConn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !direct.begin() {
		t.Fatal("it is closing")
	}
	go func() {
		for !direct.IsClosed() {
			<-time.After(10 * time.Millisecond)
		}
		direct.begun.Done() // as a publish that ends with its connection
	}()
	finished, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		c.Finish()
	}()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return isClosing(direct) }, "the direct replies are waited for")
	go func() {
		defer close(closed)
		c.Close()
	}()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return direct.IsClosed() }, "that is cut short")
	<-finished
	<-closed
}

func isClosing(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}
