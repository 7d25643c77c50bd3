package vdetest

import (
	"fmt"
	"slices"
)

// Switch is an Ethernet switch. It learns from the frames it sees which address
// is behind which port, and sends a frame for any other address to all ports but
// the one it came from. It follows an address that moves to another port at once,
// where vde_switch waits a while. A port that has 256 frames to be read loses the next. The
// zero value is a switch without ports.
type Switch struct {
	medium medium
	ports  []*Conn
	table  map[[6]byte]*Conn // where an address was seen last
	made   int               // ports ever
	closed bool
}

// Plug adds a port and returns what is plugged in there.
func (s *Switch) Plug() *Conn {
	s.medium.mu.Lock()
	defer s.medium.mu.Unlock()
	s.made++
	c := &Conn{name: fmt.Sprintf("vdetest://switch/%d", s.made), medium: &s.medium, ended: s.closed}
	c.carry = func(frame []byte) bool {
		s.forward(c, frame)
		return true
	}
	c.unplug = func() { s.remove(c) }
	s.ports = append(s.ports, c)
	return c
}

// Close ends the switch, as when a vde_switch exits: reads return what is left and
// then [io.EOF].
func (s *Switch) Close() {
	s.medium.mu.Lock()
	defer s.medium.mu.Unlock()
	s.closed = true
	for _, c := range s.ports {
		c.ended = true
	}
	s.medium.notify()
}

// forward sends a frame on. The caller holds medium.mu, as that of remove.
func (s *Switch) forward(from *Conn, frame []byte) {
	const group = 1 // in the first byte of an address: for many, so nobody's own
	dst, src := [6]byte(frame[:6]), [6]byte(frame[6:12])
	if src[0]&group == 0 {
		if s.table == nil {
			s.table = make(map[[6]byte]*Conn)
		}
		s.table[src] = from
	}
	to := s.ports
	if c := s.table[dst]; c != nil {
		to = []*Conn{c}
	}
	for _, c := range to {
		if c != from && !c.push(frame) {
			c.stats.RxDrops++
		}
	}
}

func (s *Switch) remove(c *Conn) {
	s.ports = slices.DeleteFunc(s.ports, func(p *Conn) bool { return p == c })
	for address, p := range s.table {
		if p == c {
			delete(s.table, address)
		}
	}
}
