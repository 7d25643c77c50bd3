package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A umlCase is one network between real guests, and what is sent over it.
type umlCase struct {
	name   string
	vnl    func(id string) string
	pair   bool // guest to guest; else guest and host
	serve  bool // there is an iperf3 server in the guest
	before func(l *link, id string) error
	host   func(i int) string // the address that a guest connects to
	own    func(i int) string // the guest's own
	ways   []umlWay
}

// A umlWay is what iperf3 is told, and the least ratio to C that is expected.
type umlWay struct {
	name  string
	flags string
	bar   float64
	port  int // if not 0, the host is the client, and connects to itself at this port, plus the program's number
}

// A umlResult is what was measured of one umlWay.
type umlResult struct {
	name             string
	bar              float64
	mbit, again, rtt map[string][]float64
}

func fixed(s string) func(int) string { return func(int) string { return s } }

func umlCases(dir string) []umlCase {
	path := func(scheme string) func(string) string {
		return func(id string) string { return scheme + filepath.Join(dir, id) }
	}
	between := []umlWay{{"guest to guest", "", 1.1, 0}, {"both ways", "--bidir", 0, 0}}
	return []umlCase{
		{
			name: "tap", vnl: tapVNL, before: hostTap,
			host: func(i int) string { return fmt.Sprintf("10.9.%d.1", i) },
			own:  func(i int) string { return fmt.Sprintf("10.9.%d.2", i) },
			ways: []umlWay{{"guest to host", "", 1.4, 0}, {"host to guest", "-R", 1.15, 0}, {"both ways", "--bidir", 1.3, 0}},
		},
		{
			name: "vde_switch", vnl: path("vde://"), pair: true, before: switchBefore(dir),
			host: fixed("10.8.0.1"), own: fixed("10.8.0.2"), ways: between,
		},
		{
			name: "ptp", vnl: path("ptp://"), pair: true,
			host: fixed("10.8.0.1"), own: fixed("10.8.0.2"), ways: []umlWay{{"guest to guest", "", 0, 0}, {"both ways", "--bidir", 0, 0}},
		},
		{
			name: "slirp", vnl: slirpForward, serve: true, host: fixed("10.0.2.2"), own: fixed("10.0.2.15"),
			ways: []umlWay{
				{"guest to host", "", 1, 0}, {"host to guest", "-R", 1, 0}, {"host to guest, tcpfwd", "", 1, forwarded},
			},
		},
	}
}

// forwarded is the port of the host that slirp forwards to the guest, for the
// first program.
const forwarded = 5300

// slirpForward is slirp with that port forwarded; UML takes no '='.
func slirpForward(id string) string {
	return fmt.Sprintf("slirp:///tcpfwd%%3D%d:10.0.2.15:5201", forwarded+int(id[0]-'a'))
}

// hostTap makes a tap device with the host's address.
func hostTap(l *link, id string) error {
	if err := tapBefore(l, id); err != nil {
		return err
	}
	if err := run("ip", "link", "set", tapName(id), "mtu", "1500"); err != nil {
		return err
	}
	return run("ip", "addr", "add", fmt.Sprintf("10.9.%d.1/24", id[0]-'a'), "dev", tapName(id))
}

// measureUML lets real guests send TCP to the host and to each other.
func measureUML(c config, p programs, r *report) error {
	k, err := kernel()
	if err != nil {
		return err
	}
	server, err := start(exec.Command("iperf3", "-s"), -1)
	if err != nil {
		return err
	}
	defer server.end(0)
	for _, u := range umlCases(c.dir) {
		if !c.only.MatchString(u.name) {
			continue
		}
		if err := u.measure(c, p, r, k); err != nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
	}
	return nil
}

// A umlLink is the guests of one program.
type umlLink struct {
	link   link // what before made
	guests []*guest
}

func (u *umlCase) measure(c config, p programs, r *report, kernel string) error {
	names := []string{umlvde, cplug}
	links := make([]*umlLink, len(names))
	defer func() {
		for _, l := range links {
			if l != nil {
				l.end()
			}
		}
	}()
	for i, name := range names {
		r.progress("%s: guests with %s", u.name, name)
		links[i] = &umlLink{}
		if err := u.boot(links[i], c, p[name], name, kernel, i); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, way := range u.ways {
		got := &umlResult{
			name: u.name + ", " + way.name, bar: way.bar,
			mbit: make(map[string][]float64), again: make(map[string][]float64), rtt: make(map[string][]float64),
		}
		r.uml = append(r.uml, got)
		for round := range c.rounds {
			for i := range names {
				i = (i + round) % len(names)
				r.progress("%s: round %d of %d, %s", got.name, round+1, c.rounds, names[i])
				once := func() error {
					return got.add(names[i], links[i].guests[0], u.host(i), way.client(i, u.host(i), c.during), way.port != 0)
				}
				err := once()
				if err != nil { // a guest that hangs is a result, too
					r.fault(got.name, names[i], err.Error())
					links[i].end()
					links[i] = &umlLink{}
					if err = u.boot(links[i], c, p[names[i]], names[i], kernel, i); err == nil {
						err = once()
					}
				}
				if err != nil {
					return fmt.Errorf("%s: %w", names[i], err)
				}
			}
		}
	}
	return nil
}

// boot boots the guests of program number i.
func (u *umlCase) boot(l *umlLink, c config, program, name, kernel string, i int) error {
	id := linkID(i, 0)
	l.link.cpu = -1
	if u.before != nil {
		if err := u.before(&l.link, id); err != nil {
			return err
		}
	}
	first := filepath.Join(c.dir, "path-"+strconv.Itoa(i))
	if err := os.MkdirAll(first, 0o700); err != nil {
		return err
	}
	if err := os.Symlink(program, filepath.Join(first, "vde_plug")); err != nil && !os.IsExist(err) {
		return err
	}
	addresses := []string{u.own(i)}
	if u.pair {
		addresses = append(addresses, u.host(i))
	}
	for _, addr := range addresses {
		g, err := boot(kernel, c.dir, first, u.vnl(id))
		if err != nil {
			return err
		}
		l.guests = append(l.guests, g)
		if _, err := g.do(10*time.Second, "ip link set vec0 up && ip addr add "+addr+"/24 dev vec0"); err != nil {
			return err
		}
	}
	if u.pair || u.serve {
		if _, err := l.guests[len(l.guests)-1].do(10*time.Second, "iperf3 -s >/dev/null 2>&1 &"); err != nil {
			return err
		}
	}
	_, err := l.guests[0].do(20*time.Second, "busybox ping -c 5 -i 0.2 -W 1 "+u.host(i))
	if err != nil {
		return fmt.Errorf("%s does not connect: %w", name, err)
	}
	return nil
}

func (l *umlLink) end() {
	for _, g := range l.guests {
		g.end()
	}
	for _, c := range l.link.ends {
		_ = c.Close() // the namespace ends, too
	}
}

// iperf is what matters of iperf3 -J. In the direction with _reverse the host
// sends.
type iperf struct {
	Error string
	End   struct {
		Sent        flowSum `json:"sum_sent"`
		Received    flowSum `json:"sum_received"`
		BackSent    flowSum `json:"sum_sent_bidir_reverse"`
		BackArrived flowSum `json:"sum_received_bidir_reverse"`
	}
}

type flowSum struct {
	Rate  float64 `json:"bits_per_second"`
	Again float64 `json:"retransmits"`
}

var pingTimes = regexp.MustCompile(`min/avg/max = [0-9.]+/([0-9.]+)/`)

// client is the command that measures program number i.
func (w *umlWay) client(i int, host string, during time.Duration) string {
	if w.port != 0 {
		host = fmt.Sprintf("127.0.0.1 -p %d", w.port+i)
	}
	return fmt.Sprintf("iperf3 -J -i 0 -t %.0f -c %s %s", max(1, during.Seconds()), host, w.flags)
}

// clientTime is how many seconds a client may take altogether.
const clientTime = 60

// add measures once: the round trip of single packets, and then TCP.
func (u *umlResult) add(program string, g *guest, host, client string, onHost bool) error {
	pinged, err := g.do(20*time.Second, "busybox ping -q -c 40 -i 0.02 "+host)
	if err != nil {
		return err
	}
	var text string
	if onHost {
		var out []byte
		out, err = exec.Command("timeout", append([]string{strconv.Itoa(clientTime)}, strings.Fields(client)...)...).Output()
		text = string(out)
	} else {
		text, err = g.do(clientTime*time.Second, client)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", client, err, text)
	}
	var got iperf
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return fmt.Errorf("iperf3: %w: %s", err, text)
	}
	if got.Error != "" {
		return fmt.Errorf("iperf3: %s", got.Error)
	}
	if m := pingTimes.FindStringSubmatch(pinged); m != nil {
		if ms, err := strconv.ParseFloat(m[1], 64); err == nil {
			u.rtt[program] = append(u.rtt[program], 1000*ms)
		}
	}
	u.mbit[program] = append(u.mbit[program], (got.End.Received.Rate+got.End.BackArrived.Rate)/1e6)
	u.again[program] = append(u.again[program], got.End.Sent.Again+got.End.BackSent.Again)
	return nil
}
