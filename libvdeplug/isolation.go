package libvdeplug

import "time"

// Isolation says that, and how, a plugin runs in a child process. A plugin that
// crashes, hangs or leaks there does no harm to this one; any plugin reads and
// writes in batches, and neither Close nor an [OpenContext] that is given up is
// kept by it: the child is killed if need be. The price is one more hop for each
// frame.
//
// The child is the program umlvde, best of this package's own version; one that
// speaks another protocol is refused. It is not seen by the terminal (it has
// a process group of its own), prints what the plugin prints, and ends when the
// Conn is closed or this process ends.
//
// seqpacket:// has no plugin: there is nothing to isolate, and it is opened as
// without. In the braces of another VNL it is refused, with syscall.EINVAL: the
// child has not got the descriptor.
type Isolation struct {
	// Program is the umlvde to run: a path, or a name to be looked for in
	// $PATH. "" means "umlvde".
	Program string

	// Reconnect, if positive, makes a Conn outlive its network and its child:
	// another child is started, again and again, in pauses that grow to this.
	// One that does not come back from its open is killed, after 2 s at first
	// and 30 s at last. Meanwhile reads wait; what is written is counted as
	// dropped, as on a cable that was pulled. The first Open fails as ever. Later
	// children are started from any thread, so in the network namespace of the
	// process.
	Reconnect time.Duration

	// OnState, if not nil, is told each time a Conn with Reconnect has lost its
	// network, with the reason (io.EOF if it has ended by itself, else often
	// a *CrashError, but no *OpError), and each time it has one again, with nil. It
	// is not called for Open and Close, nor without Reconnect, where reads and
	// writes return the reason. It runs on a goroutine of the Conn's, which does
	// nothing else meanwhile, perhaps before Open has returned; it may call any
	// method of the Conn.
	OnState func(c *Conn, down error)
}
