// Cable joins two VDE networks until it is interrupted or one of them ends.
//
//	cable vde:///tmp/one vde:///tmp/two
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/umlvde/umlvde/libvdeplug"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: cable VNL VNL")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := join(ctx, os.Args[1], os.Args[2]); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func join(ctx context.Context, left, right string) error {
	a, err := libvdeplug.OpenContext(ctx, left, nil)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := libvdeplug.OpenContext(ctx, right, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	log.Printf("joining %v and %v", a.LocalAddr(), b.LocalAddr())
	carried, err := libvdeplug.Bridge(ctx, a, b)
	log.Printf("carried %+v", carried)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
