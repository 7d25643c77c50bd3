package guard

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// A Page is the memory that a worker shares with its guardian, who can so see
// at any time, without asking, whether the worker moves and what it has
// counted, even after it was killed. The worker writes all but Watched.
type Page struct {
	Progress atomic.Uint64 // grows with each round of the relay
	Busy     atomic.Uint32 // 1 while the relay is not asleep
	Watched  atomic.Uint32 // 1 while the guardian looks at Progress regularly

	Up, Down relay.Counters // guest to network, network to guest
}

// NewPage makes a page and the memfd that hands it to a worker.
func NewPage() (p *Page, fd int, err error) {
	fd, err = unix.MemfdCreate("umlvde", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, -1, fmt.Errorf("shared memory: %w", err)
	}
	if err = unix.Ftruncate(fd, int64(unsafe.Sizeof(Page{}))); err != nil {
		err = fmt.Errorf("shared memory: %w", err)
	} else {
		p, err = MapPage(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, -1, err
	}
	return p, fd, nil
}

// MapPage maps the page behind fd, which may be closed afterwards.
func MapPage(fd int) (*Page, error) {
	mem, err := unix.Mmap(fd, 0, int(unsafe.Sizeof(Page{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("shared memory: %w", err)
	}
	return (*Page)(unsafe.Pointer(&mem[0])), nil
}

// Unmap gives the page back.
func (p *Page) Unmap() {
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(Page{}))) // cannot fail for memory that Mmap returned
}
