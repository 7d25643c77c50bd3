// Sniff prints the frames that it receives from a VDE network and, if told to,
// writes them to a file that wireshark and tcpdump read, until it is interrupted.
//
//	sniff -w lan.pcapng vde:///tmp/switch
//
// A switch sends it what is for everybody; make the switch a hub (port/sethub 1 on
// its console) to see all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/umlvde/umlvde/adapters/gopacketio"
	"github.com/umlvde/umlvde/libvdeplug"
)

func main() {
	file := flag.String("w", "", "`file` to write, in pcapng")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: sniff [-w FILE] VNL")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Arg(0), *file); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context, vnl, file string) (err error) {
	out := io.Discard
	if file != "" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	capture, err := pcapgo.NewNgWriter(out, layers.LinkTypeEthernet)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, capture.Flush()) }()

	conn, err := libvdeplug.OpenContext(ctx, vnl, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	context.AfterFunc(ctx, func() { conn.Close() }) // ends the packets
	log.Printf("listening on %v", conn.LocalAddr())
	handle := gopacketio.New(conn)
	for packet := range gopacket.NewPacketSource(handle, layers.LayerTypeEthernet).Packets() {
		info := packet.Metadata().CaptureInfo
		if err := capture.WritePacket(info, packet.Data()); err != nil {
			return err
		}
		fmt.Println(info.Timestamp.Format("15:04:05.000000"), describe(packet))
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("the network has ended: %w", handle.Err())
}

// describe names a packet's layers and, of the innermost that has any, addresses.
func describe(packet gopacket.Packet) (s string) {
	var flow fmt.Stringer
	for _, layer := range packet.Layers() {
		s += layer.LayerType().String() + " "
		switch l := layer.(type) {
		case gopacket.LinkLayer:
			flow = l.LinkFlow()
		case gopacket.NetworkLayer:
			flow = l.NetworkFlow()
		}
	}
	return fmt.Sprintf("%s%v, %d bytes", s, flow, len(packet.Data()))
}
