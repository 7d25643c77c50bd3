package plug

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startTime is more than a hub's host takes from making its directory to binding its
// socket there.
const startTime = 50 * time.Millisecond

// reclaimHub removes the directory that a killed host of a hub:// left, which
// would make every later open fail with EEXIST. It does so only if nobody has
// its control socket, and removes nothing but sockets.
func reclaimHub(dir string) {
	// All that follows is about this very directory: another process may remove it,
	// too, and host a hub in its place.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer func() { _ = root.Close() }() // it was only read
	ctl := filepath.Join(dir, "ctl")
	dead := func() bool { return Abandoned(ctl) || emptied(root) }
	if !dead() {
		return
	}
	// A host that is just starting has a directory before it has a socket.
	if time.Sleep(startTime); !dead() {
		return
	}
	for _, e := range entries(root) { // the host's own, its ends of cables (fd7), clients killed while they were opening
		name := e.Name()
		if e.Type() == os.ModeSocket && (name == "ctl" || strings.HasPrefix(name, "fd") || strings.HasPrefix(name, ".")) {
			_ = root.Remove(name)
		}
	}
	_ = os.Remove(dir) // if this fails, so will the open, and it says why
}

// usersHub is the directory of a hub:// that names none (libvdeplug_netnode.c).
func usersHub() string {
	id := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(id); err == nil {
		return "/tmp/vdenode_" + u.Username
	}
	return "/tmp/vdenode_u" + id
}

// emptied reports whether a directory is that of a hub whose host was killed
// while it removed it, after its socket: the plugin sets the bit setgid, which
// people seldom do.
func emptied(root *os.Root) bool {
	st, err := root.Stat(".")
	return err == nil && st.Mode()&os.ModeSetgid != 0 && len(entries(root)) == 0
}

// entries is what is in a directory, nothing if it cannot be read.
func entries(root *os.Root) []os.DirEntry {
	d, err := root.Open(".")
	if err != nil {
		return nil
	}
	defer d.Close()
	all, _ := d.ReadDir(-1) // what there is
	return all
}

// reclaimPtp removes the socket that a killed end of a ptp:// left. The plugin
// would do so, but gives up before if the other end is still connected to it
// (EPERM); the other end learns of it by the removal: see [ptpPlug].
func reclaimPtp(base string) {
	for _, path := range []string{base, base + "+"} {
		if Abandoned(path) {
			_ = os.Remove(path) // if this fails, so will the open, and it says why
		}
	}
}

// reclaimVde removes the sockets that clients left when they were killed while they
// waited for a switch's answer, for which it may let them wait for ever: in its
// directory, or else where they were free to bind one (libvdeplug_vde.c).
func reclaimVde(dir string) {
	for _, p := range []struct{ dir, pattern string }{
		{dir, ".[0-9]*-[0-9]*"},
		{"/var/run", "vde.[0-9]*-[0-9]*"},
		{"/var/tmp", "vde.[0-9]*-[0-9]*"},
		{"/tmp", "vde.[0-9]*-[0-9]*"},
	} {
		entries, _ := os.ReadDir(p.dir) // what there is
		for _, e := range entries {
			path := filepath.Join(p.dir, e.Name())
			if ok, _ := filepath.Match(p.pattern, e.Name()); ok && Abandoned(path) {
				_ = os.Remove(path) // it may be somebody else's
			}
		}
	}
}

// Abandoned reports whether path is a socket that no process has any more. Whoever has
// one to listen on does not learn of the question, as it is of another type (EPROTOTYPE):
// a hub's host would keep the descriptor of a client that only connects, and be told
// of it for ever. One that is not listening yet is not abandoned either.
func Abandoned(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, FileAddr(path)) == unix.ECONNREFUSED
}

// FileAddr is the address of a socket at path, even if that begins with @, which
// unix.SockaddrUnix takes for no file.
func FileAddr(path string) *unix.SockaddrUnix {
	if strings.HasPrefix(path, "@") {
		path = "./" + path
	}
	return &unix.SockaddrUnix{Name: path}
}
