package vdetest_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/umlvde/umlvde/libvdeplug/vdetest"
)

// reflect is the program under test: it sends every frame back to its sender. It
// takes a net.Conn, which a *libvdeplug.Conn is, too.
func reflect(conn net.Conn) error {
	buf := make([]byte, 1518)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		frame := buf[:n]
		var dst [6]byte
		copy(dst[:], frame[:6])
		copy(frame[:6], frame[6:12])
		copy(frame[6:12], dst[:])
		if _, err := conn.Write(frame); err != nil {
			return err
		}
	}
}

func Example() {
	far, near := vdetest.Pair()
	done := make(chan error)
	go func() { done <- reflect(far) }()

	frame := []byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x88\xb5ping")
	if _, err := near.Write(frame); err != nil {
		log.Fatal(err)
	}
	n, err := near.Read(frame)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%x, from %x\n", frame[:6], frame[6:12])
	fmt.Printf("%s\n", frame[14:n])

	near.Close() // the program reads io.EOF
	fmt.Println(<-done)
	// Output:
	// 020000000001, from 020000000002
	// ping
	// <nil>
}

// Three programs on a switch.
func ExampleSwitch() {
	var lan vdetest.Switch
	defer lan.Close()
	a, b, c := lan.Plug(), lan.Plug(), lan.Plug()

	hello := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5hello")
	if _, err := a.Write(hello); err != nil {
		log.Fatal(err)
	}
	for _, conn := range []net.Conn{b, c} {
		buf := make([]byte, 1518)
		n, err := conn.Read(buf)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", buf[14:n])
	}
	// Output:
	// hello
	// hello
}
