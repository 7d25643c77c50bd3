package conformance

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/umlvde/umlvde/internal/rig"
)

// sshd starts an ssh server on the loopback interface of the near end, with keys
// that are thrown away; "ssh -F {dir}/ssh/config remote" logs in.
func sshd(p *place) {
	p.t.Helper()
	vdeSwitch(p)
	dir := filepath.Join(p.dir, "ssh")
	must(p.t, os.Mkdir(dir, 0o700))
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			p.t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	host, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	must(p.t, err)
	for name, text := range map[string]string{
		"known_hosts": "[127.0.0.1]:2222 " + string(host),
		"config": `Host remote
	HostName 127.0.0.1
	Port 2222
	User root
	IdentityFile ` + dir + `/user
	IdentitiesOnly yes
	UserKnownHostsFile ` + dir + `/known_hosts
	BatchMode yes
	LogLevel ERROR
`,
		"server": `ListenAddress 127.0.0.1:2222
HostKey ` + dir + `/host
AuthorizedKeysFile ` + dir + `/user.pub
PidFile none
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM yes
PrintMotd no
PrintLastLog no
`,
	} {
		must(p.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	p.near.Do(func() {
		p.t.Helper()
		// It wants a directory in /run.
		server := rig.Start(p.t, exec.Command("unshare", "--mount", "sh", "-ec",
			`mount -t tmpfs tmpfs /run; mkdir -m 755 /run/sshd; exec /usr/sbin/sshd -D -e -f "$0"`, filepath.Join(dir, "server")))
		server.WaitLine("Server listening on 127.0.0.1 port 2222", soon)
	})
}

// slirpTest is the row of slirp: a guest with an IP stack behind it, connections
// from it and, over forwarded ports, to it.
func slirpTest(p *place, g *rig.Guest) {
	t := p.t
	t.Helper()
	h := newStack(p, g, "10.0.2.15/24")
	h.ns.Sh("ip link set eth0 mtu 1400; ip route add default via 10.0.2.2")
	h.ns.Sh("for i in 1 2 3 4 5; do busybox ping -c 2 -i 0.1 -W 1 10.0.2.2 && break; done")
	for _, c := range []struct{ what, listen, dial string }{
		{"from the guest to the host", "host 127.0.0.1:8000", "guest 10.0.2.2:8000"},
		{"from the host to the guest's port 22", "guest 10.0.2.15:22", "host 127.0.0.1:5555"},
		{"from the host to the guest's port 23", "guest 10.0.2.15:23", "host 127.0.0.1:5556"},
	} {
		place := func(s string) (*rig.Namespace, string) {
			where, address, _ := strings.Cut(s, " ")
			if where == "guest" {
				return h.ns, address
			}
			return p.near, address
		}
		mbit, err := transfer(place, c.listen, c.dial)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		t.Logf("%s: %.0f Mbit/s", c.what, mbit)
	}
	if n := h.longest.Load(); n > 1414 {
		t.Errorf("with mtu=1400 the guest was sent a frame of %d bytes", n)
	}
}

// listenIn listens in a namespace.
func listenIn(n *rig.Namespace, address string) (l net.Listener, err error) {
	n.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return l, nil
}
