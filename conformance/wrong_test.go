package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

// TestWrong gives the helper VNLs that cannot work. It answers each with one
// line that says what is wrong and what to do, goes on with its guest, and
// leaves nothing behind.
func TestWrong(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct{ vnl, says string }{
		{"vde://{dir}/none", `no switch there (start one with: vde_switch -s {dir}/none): no such file or directory`},
		{"slirp", `no switch there (or do you mean slirp://?): no such file or directory`},
		{"tap:tap0", `no switch there (or do you mean tap://?): no such file or directory`},
		{"vde://{dir}/file", `it is no directory of a switch: not a directory`},
		{"vde://{dir}[foo=1]", `there is no parameter "foo" (it is written vde://DIRECTORY or `},
		{"vde://{dir}[mode=rwx]", `mode=rwx: it must be an octal mode such as 0700 (`},
		{"vde://{dir}[group=nosuchgroup]", `group=nosuchgroup: there is no such group (`},
		{"vde://{dir}/" + long, `the path is too long: it has `},
		{"tap://a-name-that-is-too-long", `"a-name-that-is-too-long" is not the name of an interface: that has up to 15 characters`},
		{"tap://dummy0", `the interface is no tap: invalid argument`},
		{"pcap://nosuch0", `there is no network interface nosuch0: no such device`},
		{"pcap://", `something is missing (it is written pcap://NAME)`},
		{"udp://5001", `it has no -> between the two ends (it is written udp://[HOST:]PORT->HOST:PORT)`},
		{"udp://5001->localhost", `"localhost" has no port`},
		{"udp://5001->5002", `"5002" has no host`},
		{"udp://5001->nosuch.invalid:5002", `lookup nosuch.invalid`},
		{"udp://192.0.2.1:5001->localhost:5002", `cannot assign requested address`},
		{"ptp://{dir}/none/p", `the directory in which it should be does not exist: no such file or directory`},
		{"ptp://{dir}/" + long, `the path is too long`},
		{"vxvde://192.0.2.1", `192.0.2.1 is not a multicast address (it is written vxvde://[GROUP]`},
		{"vxvde://239.0.0.1/if=nosuch0", `if=nosuch0: there is no such network interface`},
		{"vxvde://239.0.0.1", `there is no way to the multicast group (name an interface: /if=NAME)`},
		{"vxvde://239.0.0.1/vni=one", `vni=one: it must be a number from 0 to 16777215`},
		{"vxlan://192.0.2.1", `192.0.2.1 is not a multicast address (it is written vxlan://[GROUP]`},
		{"vxlan://239.0.0.1[port=4789]", `each parameter needs a slash before it: "239.0.0.1[port=4789]"`},
		{"vxlan://nosuch.invalid", `lookup nosuch.invalid`},
		{"hub://{dir}/none/h", `the directory in which it should be does not exist: no such file or directory`},
		{"hub://{dir}", `another program serves a network there, or there is something else (if it is of no use, remove {dir}): file exists`},
		{"hub://{dir}/h[mode=0800]", `mode=0800: it must be an octal mode`},
		{"hub://{dir}/" + long, `the path is too long`},
		{"switch://{dir}/h[hashsize=1]", `hashsize=1: it must be a number from 2 to `},
		{"multi://{dir}/h[sise=2]", `there is no parameter "sise"`},
		{"bonding://{dir}/file/h", `not a directory`},
		{"cmd://no-such-command-anywhere", `the command cannot be started: exec: "no-such-command-anywhere": executable file not found in $PATH`},
		{"cmd://", `the VNL names no command`},
		{"cmd://echo 'a", `a quote in the command is not closed (it is written cmd://COMMAND ARGUMENT...)`},
		{"cmd://false", `the command ended (exit status 1)`},
		{"cmd://echo Welcome to this machine", `: a length of 22373 bytes`},
		{"slirp:///mtu=20", `mtu=20: it must be a number from 68 to 65521`},
		{"slirp:///tcpfwd=5555:22", `"5555:22" is not [ADDRESS:]PORT:GUEST:PORT`},
		{"slirp:///tcpfwd=5555:10.0.2.15:22,99999:10.0.2.15:23", `"99999:10.0.2.15:23" is not`},
		{"slirp:///host=10.0.2", `host=10.0.2: it is no address of the kind that is needed`},
		{"slirp://mtu=1400", `each parameter needs a slash before it: "mtu=1400"`},
		{"slirp:///nosuch=1", `there is no parameter "nosuch"`},
		{"vdesl://{dir}/none", `there is no such device: no such file or directory`},
		{"vdesl:///dev/null", `it is no serial line: inappropriate ioctl for device`},
		{"vdesl:///dev/null[speed=12]", `speed=12: it is not a speed of serial lines, such as 115200`},
		{"vlan://5[t=10]{null://}", `each parameter needs a slash before it: "5[t=10]"`},
		{"vlan://5/t=1{null://}", `t=1: "1" is not a VLAN from 2 to 4094`},
		{"vlan://5{vde://{dir}/none}", `in braces: no switch there (start one with: vde_switch -s {dir}/none)`},
		{"vlan://5{null://", `the brace before the nested VNL is not closed (it is written vlan://`},
		{"vlan://5{agno://{dir}/file{null://}}", `in braces: there is no key in the file: that is 32 hexadecimal digits: invalid argument`},
		{"agno://{dir}/none{null://}", `the key cannot be read (make one with: `},
		{"agno://key{null://}", `the path of the key must begin with / or ~: "key"`},
		{"agno://{dir}/file[ethtype=none]{null://}", `ethtype=none: it must be copy, ipv4, ipv6, rand or a number from 0x600`},
		{"nosuch://x", `no plugin "nosuch": libvdeplug_nosuch.so: no such file or directory`},
	} {
		t.Run(c.vnl, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, &row{vnl: c.vnl})
			must(t, os.WriteFile(filepath.Join(p.dir, "file"), []byte("zzz\n"), 0o600))
			if strings.HasPrefix(c.vnl, "tap://dummy0") {
				p.near.Sh("ip link add dummy0 type veth peer name dummy1")
			}
			before := p.files()
			g := p.helper()
			m := g.WaitLine(`link down: (.*); trying again$`, soon)
			if !strings.Contains(m[1], p.fill(c.says)) {
				t.Errorf("it says %q, not %q", m[1], p.fill(c.says))
			}
			// The next tries say nothing new, and the guest goes on.
			for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
				if !g.Send(rig.Frame(60, 0), 250*time.Millisecond) {
					t.Fatal("the guest's socket was not read for 250 ms")
				}
			}
			said := slices.DeleteFunc(g.Lines(), func(line string) bool { return strings.HasSuffix(line, ": link up") }) // a command started
			if len(said) != 1 {
				t.Errorf("it wrote %d lines: %q", len(said), said)
			}
			g.Close()
			if code := g.Wait(2 * time.Second); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if after := p.files(); len(after) != len(before) {
				t.Errorf("in the directory were %q, and are %q", before, after)
			}
		})
	}
}
