package plug

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// reclaimHub removes the directory that a killed host of a hub:// left, which
// would make every later open fail with EEXIST. It does so only if nobody
// listens on its control socket, and removes nothing but sockets.
func reclaimHub(vnl VNL) {
	dir := vnl.base()
	if dir == "" {
		dir = "/tmp/vdenode_" + os.Getenv("USER") // libvdeplug_netnode.c
	}
	ctl := filepath.Join(dir, "ctl")
	if !abandoned(ctl) {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries { // clients killed while they were opening leave theirs
		if e.Type() == os.ModeSocket && (e.Name() == "ctl" || strings.HasPrefix(e.Name(), ".")) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir) // if this fails, so will the open, and it says why
}

// abandoned reports whether path is a stream socket that nobody listens on.
func abandoned(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == unix.ECONNREFUSED
}
