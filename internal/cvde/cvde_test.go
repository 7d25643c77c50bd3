package cvde_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/cvde"
	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

func load(t *testing.T) *cvde.Library {
	t.Helper()
	lib, err := cvde.Load("libvdeplug.so.2")
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

func open(t *testing.T, vnl string, args *cvde.OpenArgs) *cvde.Conn {
	t.Helper()
	c, err := load(t).Open(vnl, "test", args)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newBatch(t *testing.T) *mmsg.Batch {
	t.Helper()
	b, err := mmsg.NewBatch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Free)
	return b
}

func TestLoad(t *testing.T) {
	if got := load(t).Path(); filepath.Base(got) != "libvdeplug.so.2" || !filepath.IsAbs(got) {
		t.Errorf("loaded %s", got)
	}
	for name, want := range map[string]string{
		"libnonexistent.so.9":                "libnonexistent.so.9: cannot open shared object file: No such file or directory",
		"libc.so.6":                          "undefined symbol: vde_open_real",
		"/dev/null":                          "file too short",
		strings.Repeat("x", 9):               "cannot open shared object file",
		strings.Repeat("/long", 1000) + "/x": "/long/long", // the reason itself is cut
	} {
		if _, err := cvde.Load(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v", name, err)
		}
	}
	if err := cvde.Probe("/nonexistent.so"); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("Probe: %v", err)
	}
	if err := cvde.Probe("libc.so.6"); err != nil {
		t.Errorf("Probe: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	lib := load(t)
	for vnl, want := range map[string]error{
		"nosuch://":                unix.EPROTONOSUPPORT,
		"vde:///nonexistent":       unix.ENOENT,
		"vde:///dev/null":          unix.ENOTDIR,
		"udp://no-arrow":           cvde.ErrUnspecified,
		"null://\x00hidden after ": nil, // C sees the first half
	} {
		c, err := lib.Open(vnl, "test", nil)
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", vnl, err, want)
		}
		if err == nil {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestOpenArgs has the arguments reach the plugin: ptp gives them to its socket.
func TestOpenArgs(t *testing.T) {
	group, err := user.LookupGroup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(rig.TempDir(t), "p")
	c := open(t, "ptp://"+path, &cvde.OpenArgs{Mode: 0o640, Group: "daemon"})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&0o777 != 0o640 || fmt.Sprint(st.Gid) != group.Gid {
		t.Errorf("mode %o, group %d: %v", st.Mode, st.Gid, err)
	}
	if c.DataFd() < 0 || c.CtlFd() != -1 {
		t.Errorf("descriptors %d and %d", c.DataFd(), c.CtlFd())
	}
}

func TestBatches(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	a, b := open(t, vnl, nil), open(t, vnl, nil)
	out, in := newBatch(t), newBatch(t)
	fill := func() {
		out.Clear()
		for i := range mmsg.Max {
			out.Append(rig.Frame(18+i, uint32(i)))
		}
	}
	fill()
	v, n := out.Headers()
	if got, err := a.Send(v, n, false); got != n || err != nil {
		t.Fatalf("Send of %d: %d, %v", n, got, err)
	}
	if got, err := b.Recv(in.Empty(), 10, true); got != 10 || err != nil {
		t.Fatalf("Recv of 10: %d, %v", got, err)
	}
	if got, err := b.Recv(in.Empty(), mmsg.Max, true); got != mmsg.Max-10 || err != nil {
		t.Fatalf("Recv of the rest: %d, %v", got, err)
	}
	in.Filled(mmsg.Max - 10)
	for i := range in.Len() {
		if f := in.Frame(i); len(f) != 28+i || rig.Number(f) != uint32(10+i) {
			t.Errorf("frame %d is number %d, of %d bytes", 10+i, rig.Number(f), len(f))
		}
	}
	if got, err := b.Recv(in.Empty(), mmsg.Max, true); got != 0 || err != nil {
		t.Errorf("Recv of nothing: %d, %v", got, err)
	}
	if got := testing.AllocsPerRun(100, func() {
		v, n := out.Headers()
		_, _ = a.Send(v, n, true)
		_, _ = b.Recv(in.Empty(), mmsg.Max, true)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
	// With poll it stops where the socket is full, and says so when it has begun.
	sent := 0
	for range 1000 {
		n, err := a.Send(v, n, true)
		if sent += n; err != nil {
			if !errors.Is(err, unix.EAGAIN) || n != 0 {
				t.Errorf("full: %d, %v", n, err)
			}
			return
		}
	}
	t.Errorf("%d frames fit", sent)
}

// TestResults sees what vde_recv's results below a frame become: 1 is skipped, 0
// is the end, but frames that came before are not lost.
func TestResults(t *testing.T) {
	null := open(t, "null://", nil)
	in := newBatch(t)
	if n, err := null.Recv(in.Empty(), mmsg.Max, false); n != 0 || err != nil {
		t.Errorf("null: %d, %v", n, err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, fmt.Sprintf("seqpacket://%d", pair[0]), nil)
	for i := range uint32(3) {
		if _, err := unix.Write(pair[1], rig.Frame(60, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Close(pair[1]); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Recv(in.Empty(), mmsg.Max, true); n != 3 || err != nil {
		t.Errorf("before the end: %d, %v", n, err)
	}
	for range 2 {
		if n, err := c.Recv(in.Empty(), mmsg.Max, true); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the end: %d, %v", n, err)
		}
	}
	in.Clear()
	in.Append(rig.Frame(60, 1))
	v, n := in.Headers()
	if n, err := c.Send(v, n, false); n != 0 || !errors.Is(err, unix.EPIPE) {
		t.Errorf("Send to nobody: %d, %v", n, err)
	}
}
