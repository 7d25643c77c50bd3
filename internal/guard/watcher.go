package guard

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// watcher tells links when a path that they wait for may have appeared: with
// inotify, on the deepest directory of the path that exists. A user has only so
// many inotify instances, 128 by default, so it keeps one only while somebody
// waits; without one, the retries of the links go on.
//
// A path may lead to a file system that does not answer, which must not keep the
// guardian. So another goroutine walks it.
type watcher struct {
	loop    *loop
	fd      int                      // -1 while nobody waits
	waiting map[int]map[*Link]string // by watch: who waits, for which name in the directory
	walking map[*Link]bool           // for whom a path is being walked; whether it still waits
	walks   chan walk                // that have come to an end
	walked  int                      // eventfd: there are some
}

// A walk along a link's path has ended at a directory.
type walk struct {
	l    *Link
	wd   int // watch of the directory
	name string
	err  error
}

func newWatcher(l *loop) (*watcher, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	w := &watcher{
		loop: l, fd: -1, waiting: make(map[int]map[*Link]string),
		walking: make(map[*Link]bool), walks: make(chan walk, 1), walked: fd,
	}
	return w, l.add(fd, unix.EPOLLIN, func(uint32) { w.settle() })
}

// open gets an inotify instance, if there is none yet.
func (w *watcher) open() bool {
	if w.fd >= 0 {
		return true
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return false
	}
	if err := w.loop.add(fd, unix.EPOLLIN, func(uint32) { w.read() }); err != nil {
		_ = unix.Close(fd)
		return false
	}
	w.fd = fd
	return true
}

// close gives it back, if nobody waits or walks.
func (w *watcher) close() {
	if w.fd >= 0 && len(w.waiting) == 0 && len(w.walking) == 0 {
		w.loop.del(w.fd)
		_ = unix.Close(w.fd)
		w.fd = -1
	}
}

// await makes l.appeared be called when path, which is always the same for a link,
// may have appeared; "" waits for nothing. It replaces what l waited for before.
// A path that appears before the watch is set is found by the next retry.
func (w *watcher) await(l *Link, path string) {
	w.leave(l)
	defer w.close()
	if path == "" {
		return
	}
	_, busy := w.walking[l]
	if !busy && !w.open() {
		return
	}
	w.walking[l] = true
	if busy { // it may hang, and there shall be no more of them
		return
	}
	fd := w.fd
	go func() {
		a := watch(fd, path)
		a.l = l
		w.walks <- a
		_, _ = unix.Write(w.walked, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // the loop wakes up in any case
	}()
}

// watch makes an inotify instance watch the deepest directory of path that exists.
func watch(fd int, path string) (a walk) {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	dir := filepath.Dir(path)
	a.name = filepath.Base(path)
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() || dir == "/" {
			break
		}
		dir, a.name = filepath.Dir(dir), filepath.Base(dir)
	}
	a.wd, a.err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	return a
}

// settle takes what walks have found. Without a watch, the retries go on.
func (w *watcher) settle() {
	var b [8]byte
	_, _ = unix.Read(w.walked, b[:])
	defer w.close()
	for {
		select {
		case a := <-w.walks:
			if w.walking[a.l] && a.err == nil {
				if w.waiting[a.wd] == nil {
					w.waiting[a.wd] = make(map[*Link]string)
				}
				w.waiting[a.wd][a.l] = a.name
			}
			delete(w.walking, a.l)
		default:
			return
		}
	}
}

// forget ends what await began.
func (w *watcher) forget(l *Link) {
	w.leave(l)
	w.close()
}

// leave leaves the watch where it is until close: the next walk, which may be under
// way, most likely needs it.
func (w *watcher) leave(l *Link) {
	if w.walking[l] {
		w.walking[l] = false
	}
	for wd, links := range w.waiting {
		if delete(links, l); len(links) == 0 {
			delete(w.waiting, wd)
		}
	}
}

// read handles what inotify(7) reports.
func (w *watcher) read() {
	var buf [4096]byte
	n, err := unix.Read(w.fd, buf[:])
	if err != nil {
		return
	}
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		wd := int(int32(binary.NativeEndian.Uint32(b)))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		for l, want := range w.waiting[wd] {
			if name == want || mask&unix.IN_IGNORED != 0 { // or the directory itself is gone
				l.appeared()
			}
		}
		b = b[size:]
	}
}
