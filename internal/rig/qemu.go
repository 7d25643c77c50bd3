package rig

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// qemuInit is the beginning of what the init of a QEMU guest does.
const qemuInit = `#!/bin/sh
export PATH=/bin:/usr/bin HOME=/run TMPDIR=/run
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe virtio_pci
modprobe virtio_net
stty -echo
ip link set lo up
`

// A QEMU is a running QEMU guest with Debian's cloud kernel, whose network card
// is eth0. There are busybox and iperf3 in it.
type QEMU struct{ *Console }

// StartQEMU starts a QEMU guest by the program and arguments in before, if any,
// with QEMU's netdev options, such as "vde,sock=/tmp/switch". It needs five
// seconds to boot, for which nobody waits here: the first command does. The
// processor is emulated, since machines that run tests rarely have KVM.
func StartQEMU(t testing.TB, before []string, netdev, mac string) *QEMU {
	t.Helper()
	argv := append([]string(nil), before...)
	argv = append(argv, "qemu-system-x86_64", "-M", "pc,accel=tcg,usb=off", "-cpu", "max", "-m", "192", "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", CloudKernel(t), "-initrd", Initramfs(t, serveScript+"poweroff -f\n"), "-append", "console=ttyS0 quiet panic=-1",
		"-netdev", netdev+",id=net", "-device", "virtio-net-pci,netdev=net,romfile=,mac="+mac)
	q := &QEMU{openConsole(t, exec.Command(argv[0], argv[1:]...))}
	q.boots = true
	return q
}

// CloudKernel is the path of the kernel that QEMU guests have.
func CloudKernel(t testing.TB) string { return cached(t, "cloud", "vmlinuz") }

// Initramfs makes the root of a QEMU guest with [CloudKernel], which lives in
// memory, and returns its path. Its init sets up the network card, eth0, and
// does what commands, of a shell, say.
func Initramfs(t testing.TB, commands string) string {
	t.Helper()
	root := filepath.Join(TempDir(t), "root")
	for _, dir := range []string{"bin", "dev", "proc", "run", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o750))
	}
	must(t, os.WriteFile(filepath.Join(root, "init"), []byte(qemuInit+commands), 0o755)) //nolint:gosec // it has to be executable
	must(t, os.CopyFS(root, os.DirFS(cached(t, "cloud", "modules"))))
	for _, name := range []string{"busybox", "iperf3"} {
		path, err := exec.LookPath(name)
		must(t, err)
		copyFile(t, path, filepath.Join(root, "bin", name))
		for _, lib := range libraries(t, path) {
			copyFile(t, lib, filepath.Join(root, lib))
		}
	}
	must(t, os.Symlink("busybox", filepath.Join(root, "bin", "sh")))

	var names []string
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, "."+strings.TrimPrefix(path, root))
		return err
	}))
	cpio := exec.Command("busybox", "cpio", "-o", "-H", "newc")
	cpio.Dir = root
	cpio.Stdin = strings.NewReader(strings.Join(names, "\n"))
	var says bytes.Buffer
	cpio.Stderr = &says
	archive, err := cpio.Output()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, says.String())
	}
	must(t, os.RemoveAll(root))
	path := root + ".cpio"
	must(t, os.WriteFile(path, archive, 0o600))
	return path
}

// libraries lists the shared libraries that a program needs, none if it is
// linked statically.
func libraries(t testing.TB, program string) (paths []string) {
	t.Helper()
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("not a dynamic executable")) {
			return nil
		}
		t.Fatalf("ldd %s: %v: %s", program, err, out)
	}
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllSubmatch(out, -1) {
		paths = append(paths, string(m[1]))
	}
	return paths
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(to), 0o750))
	must(t, os.WriteFile(to, data, 0o755)) //nolint:gosec // it has to be executable
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
