package libvdeplug_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/umlvde/umlvde/libvdeplug"
)

// Two ends of a cable; with "vde:///run/vde.ctl" they would be two ports of the
// switch there.
func Example() {
	dir, err := os.MkdirTemp("", "cable")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	vnl := "ptp://" + filepath.Join(dir, "p")

	left, err := libvdeplug.Open(vnl, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer left.Close()
	right, err := libvdeplug.Open(vnl, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer right.Close()

	// A frame: to everybody, from 02:00:00:00:00:01, of a type for experiments.
	frame := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5Hello, cable.")
	if _, err := left.Write(frame); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, libvdeplug.MaxFrameSize)
	n, err := right.Read(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", buf[libvdeplug.MinFrameSize:n])
	// Output: Hello, cable.
}

// What is missing, if something is.
func ExampleOpen() {
	_, err := libvdeplug.Open("quantum://entangled", nil)
	var missing *libvdeplug.PluginError
	switch {
	case errors.As(err, &missing):
		fmt.Printf("plugin %s is not installed: %v\n", missing.Plugin, errors.Is(err, fs.ErrNotExist))
	case libvdeplug.Available() != nil:
		fmt.Println("libvdeplug is not installed")
	}
	// Output: plugin quantum is not installed: true
}

// A plugin in a process of its own, which is started again when it crashes or its
// network ends.
func ExampleOpen_isolated() {
	_, err := libvdeplug.Open("vde:///run/vde.ctl", &libvdeplug.Options{Isolation: &libvdeplug.Isolation{
		Program:   "/nonexistent/umlvde", // usually left out: the one in $PATH
		Reconnect: 5 * time.Second,
		OnState: func(c *libvdeplug.Conn, down error) {
			log.Printf("%v: down: %v", c.LocalAddr(), down)
		},
	}})
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output: true
}
