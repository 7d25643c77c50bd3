package libvdeplug_test

import (
	"context"
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

// A cable that ends with its context, between two networks that go on.
func ExampleBridge() {
	var conns [2]*libvdeplug.Conn
	for i := range conns {
		var err error
		if conns[i], err = libvdeplug.Open("null://", nil); err != nil { // or "vde:///tmp/one", "slirp://"
			log.Fatal(err)
		}
		defer conns[i].Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	carried, err := libvdeplug.Bridge(ctx, conns[0], conns[1])
	if !errors.Is(err, context.DeadlineExceeded) {
		log.Fatal(err) // io.EOF: a network has ended
	}
	fmt.Println(carried.AB.Frames, "frames there,", carried.BA.Frames, "back")
	// Output: 0 frames there, 0 back
}

// Many frames in a call, into buffers that are made once.
func ExampleConn_ReadBatch() {
	conn, err := libvdeplug.Open("cmd://cat", nil) // sends all back
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	frame := make([]byte, 60)
	if _, err := conn.WriteBatch([][]byte{frame, frame, frame}); err != nil {
		log.Fatal(err)
	}

	bufs, sizes := make([][]byte, 64), make([]int, 64)
	for i := range bufs {
		bufs[i] = make([]byte, libvdeplug.MaxFrameSize)
	}
	for left := 3; left > 0; {
		n, err := conn.ReadBatch(bufs, sizes)
		if err != nil {
			log.Fatal(err)
		}
		for i := range n {
			fmt.Println("a frame of", len(bufs[i][:sizes[i]]), "bytes")
		}
		left -= n
	}
	// Output:
	// a frame of 60 bytes
	// a frame of 60 bytes
	// a frame of 60 bytes
}
