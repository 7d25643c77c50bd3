package main

import (
	"errors"
	"fmt"
	"log/syslog"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/plug"
)

// ipLogGroup is the group of the users whose IP addresses are logged when
// vde_plug is their login shell.
const ipLogGroup = "vdeplug_iplog"

// login is the value of -c: what sshd gives to a login shell. A user whose shell
// is this program may use it without arguments, and nothing else.
type login bool

func (l *login) String() string { return "" }
func (l *login) Type() string   { return "vde_plug" }

func (l *login) Set(command string) error {
	if command != "vde_plug" {
		return errNoShell
	}
	*l = true
	return nil
}

var errNoShell = errors.New("this is a tunnel broker of Virtual Distributed Ethernet, not a login shell: only the command vde_plug is served")

// logsIP says whether the user is one of the ipLogGroup.
func logsIP() bool {
	me, err := user.Current()
	if err != nil {
		return false
	}
	groups, err := me.GroupIds()
	if err != nil {
		return false
	}
	group, err := user.LookupGroup(ipLogGroup)
	return err == nil && slices.Contains(groups, group.Gid)
}

// A sysLog tells syslog who uses the program. It never makes the caller wait.
type sysLog struct {
	user, host string
	lines      chan string
	done       chan struct{} // closed when all lines are written
}

// openSysLog begins with a line "START", or what happened instead.
func openSysLog(what string) (*sysLog, error) {
	w, err := syslog.New(syslog.LOG_INFO|syslog.LOG_USER, "vde_plug")
	if err != nil {
		return nil, fmt.Errorf("nothing can be logged: %w", err)
	}
	l := &sysLog{user: "?", host: "UNKNOWN_IP_ADDRESS", lines: make(chan string, 256), done: make(chan struct{})}
	if me, err := user.Current(); err == nil {
		l.user = me.Username
	}
	if f := strings.Fields(os.Getenv("SSH_CLIENT")); len(f) > 0 {
		l.host = f[0]
	}
	go func() {
		defer close(l.done)
		for line := range l.lines {
			_ = w.Info(line) // there is nobody to tell
		}
		_ = w.Close()
	}()
	l.session(what)
	return l, nil
}

func (l *sysLog) session(what string) {
	l.line(fmt.Sprintf("%s: user %s IP %s", what, l.user, l.host))
}

// line logs a line, and reports false if syslog is too slow.
func (l *sysLog) line(text string) bool {
	select {
	case l.lines <- text:
		return true
	default:
		return false
	}
}

// close ends the log, with a line "STOP" if it was started; it waits for syslog, but
// not for ever.
func (l *sysLog) close(what string) {
	if what != "" {
		l.session(what)
	}
	close(l.lines)
	select {
	case <-l.done:
	case <-time.After(time.Second):
	}
}

// maxAddresses bounds what a network full of invented addresses can cost.
const maxAddresses = 4096

// ipLog is a plug that tells syslog of each source address that frames from it
// have, once.
type ipLog struct {
	plug.Plug
	log  *sysLog
	seen map[source]bool
}

// source is an address in a VLAN; 0 stands for none.
type source struct {
	addr netip.Addr
	vlan int
}

// Recv is relay.Port's.
func (l *ipLog) Recv(b *mmsg.Batch) error {
	if err := l.Plug.Recv(b); err != nil {
		return err
	}
	for i := range b.Len() {
		s, ok := sourceOf(b.Frame(i))
		if !ok || l.seen[s] || len(l.seen) > maxAddresses {
			continue
		}
		text := fmt.Sprintf("user %s Real-IP %s has got VDE-IP%d %s on vlan %d",
			l.log.user, l.log.host, family(s.addr), s.addr, s.vlan)
		if len(l.seen) == maxAddresses {
			text = fmt.Sprintf("user %s Real-IP %s uses more than %d addresses: the others are not logged", l.log.user, l.log.host, maxAddresses)
		}
		if l.seen == nil {
			l.seen = make(map[source]bool)
		}
		if l.log.line(text) { // else the next frame has another try
			l.seen[s] = true
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// sourceOf returns the IP address that a frame comes from.
func sourceOf(frame []byte) (s source, ok bool) {
	if len(frame) < 14 {
		return s, false
	}
	kind, packet := frame[12:14], frame[14:]
	if string(kind) == "\x81\x00" && len(packet) >= 4 {
		s.vlan = (int(packet[0])<<8 | int(packet[1])) & 0xfff
		kind, packet = packet[2:4], packet[4:]
	}
	switch {
	case string(kind) == "\x08\x00" && len(packet) >= 20 && packet[0]>>4 == 4:
		s.addr = netip.AddrFrom4([4]byte(packet[12:16]))
	case string(kind) == "\x86\xdd" && len(packet) >= 40 && packet[0]>>4 == 6:
		s.addr = netip.AddrFrom16([16]byte(packet[8:24]))
	default:
		return s, false
	}
	return s, true
}
