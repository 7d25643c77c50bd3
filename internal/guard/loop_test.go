package guard

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The events of a descriptor that was forgotten are not those of the next one that
// gets its number, even if they came together with those that made it so.
func TestEventsOfAClosedDescriptorAreForgotten(t *testing.T) {
	l, err := newLoop()
	must(t, err)
	defer l.ep.File.Close()
	var fds [2]int
	for i := range fds {
		fds[i], err = unix.Eventfd(1, unix.EFD_CLOEXEC) // it is readable
		must(t, err)
		defer unix.Close(fds[i])
	}
	calls := 0
	for i, fd := range fds {
		must(t, l.add(fd, unix.EPOLLIN, func(uint32) {
			calls++
			other := fds[1-i]
			l.del(other)
			idle, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			must(t, err)
			must(t, unix.Dup3(idle, other, unix.O_CLOEXEC))
			must(t, unix.Close(idle))
			must(t, l.add(other, unix.EPOLLIN, func(uint32) { t.Error("a new descriptor got the events of an old one") }))
		}))
	}
	must(t, l.once(time.Time{}))
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}
