package guard

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// watcher tells links when a path that they wait for may have appeared: with
// inotify, on the deepest directory of the path that exists. A user has only so
// many inotify instances, 128 by default, so it keeps one only while somebody
// waits; without one, the retries of the links go on.
type watcher struct {
	loop    *loop
	fd      int                      // -1 while nobody waits
	waiting map[int]map[*Link]string // by watch: who waits, for which name in the directory
}

func newWatcher(l *loop) *watcher {
	return &watcher{loop: l, fd: -1, waiting: make(map[int]map[*Link]string)}
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

// close gives it back, if nobody waits.
func (w *watcher) close() {
	if w.fd >= 0 && len(w.waiting) == 0 {
		w.loop.del(w.fd)
		_ = unix.Close(w.fd)
		w.fd = -1
	}
}

// await makes l.appeared be called when path may have appeared; "" waits for
// nothing. It replaces what l waited for before. A path that appears before
// the watch is set is found by the next retry.
func (w *watcher) await(l *Link, path string) {
	w.leave(l)
	defer w.close()
	if path == "" || !w.open() {
		return
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	dir, name := filepath.Dir(path), filepath.Base(path)
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() || dir == "/" {
			break
		}
		dir, name = filepath.Dir(dir), filepath.Base(dir)
	}
	wd, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		return // the retries go on
	}
	if w.waiting[wd] == nil {
		w.waiting[wd] = make(map[*Link]string)
	}
	w.waiting[wd][l] = name
}

// forget ends what await began.
func (w *watcher) forget(l *Link) {
	w.leave(l)
	w.close()
}

func (w *watcher) leave(l *Link) {
	for wd, links := range w.waiting {
		if delete(links, l); len(links) == 0 {
			delete(w.waiting, wd)
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
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
