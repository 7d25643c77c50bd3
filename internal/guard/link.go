package guard

import (
	"errors"
	"fmt"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

const (
	// tick is how often a watched worker's progress is looked at.
	tick = 25 * time.Millisecond
	// stallAfter is how long frames may wait for a worker that does not move
	// before the guardian takes them, if they are many (holdBytes): fewer can wait,
	// perhaps it is only short of a CPU.
	stallAfter = 50 * time.Millisecond
	// killAfter is how long a worker may not move at all.
	killAfter = time.Second
	// holdFor and holdBytes are how long, and how many bytes of, the first frames
	// may wait for a worker that should soon serve, or move. They are few enough for the
	// socket to have room for more: it holds at least 16 kB.
	holdFor, holdBytes = time.Second, 8 << 10
	// restAfter is how many quiet ticks end the watch.
	restAfter = 4
	// patience is how long an open may take before another one is tried beside
	// it: the first may be slow (a name server), or it may never return.
	patience = 1500 * time.Millisecond
	// lastPatience is how long the first one may take.
	lastPatience = 30 * time.Second
	// maxWorkers is how many workers a link may have for others to be tried: those
	// that wait for a file system that does not answer cannot be killed.
	maxWorkers = 4
	// Retries follow each other in an eighth of the time that the trouble has
	// lasted, within these limits: so each outage lasts little longer than its
	// cause.
	minRetry, maxRetry = 10 * time.Millisecond, 1500 * time.Millisecond
	// stableAfter is how long a link must have been up for its trouble to be over.
	stableAfter = time.Second
	// tellAgain is how long a line about a link that is down stands for itself.
	tellAgain = 3 * time.Second
	// eofGrace, termGrace: a worker's time to end after the guest has, and after SIGTERM.
	eofGrace, termGrace = 250 * time.Millisecond, 350 * time.Millisecond
)

// lookAgain is when to look at a worker again: one that moved needs half as many
// looks, which at a hundred helpers is a twentieth of the CPUs. It is the same moment
// for all links, so that many of them do not wake up the guardian more often than one
// does.
func (g *Guardian) lookAgain(w *worker) time.Time {
	every := tick
	if w.moved {
		every = 2 * tick
	}
	return w.looked.Add(every - w.looked.Sub(g.began)%every)
}

// mode is who reads the guest's socket, and how the guardian learns of frames.
type mode int

const (
	draining mode = iota // the guardian reads, and drops
	watching             // the worker reads; the guardian looks at its progress
	resting              // the worker reads, if anything comes: the next frame wakes both
)

func (m mode) events() uint32 {
	switch m {
	case draining:
		return unix.EPOLLIN | unix.EPOLLRDHUP
	case resting:
		return unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT
	}
	return unix.EPOLLRDHUP
}

// A Link is a guest's socket and whoever serves it.
type Link struct {
	g     *Guardian
	job   Job
	guest int // the guest's socket; nobody else in this process uses it
	pidfd int // of the guest, or -1

	mode    mode
	workers []*worker // in the order of their start
	serving *worker   // the one that has been told to go on, or nil

	wasUp   bool      // a worker has served
	ending  bool      // the guest is gone, or the guardian is stopping
	hold    time.Time // until then frames may wait for a worker that should soon serve
	held    time.Time // when to look how many they are
	retry   time.Time
	tried   time.Time // when a worker was last started, or could not be
	trouble time.Time // since when the link has not been up for long
	downAt  time.Time // zero while up
	lost    uint64    // frames dropped since downAt
	told    string    // the last reason that the user was given, "" while up
	toldAt  time.Time
	futile  bool      // the network ended soon, and nothing had come from it
	proof   time.Time // when a link that was futile has been up for long enough to say so

	up, down relay.Totals // of workers that have ended, and of the guardian's own drops
}

// due returns when onTime has something to do; zero is never.
func (l *Link) due() (d time.Time) {
	soonest := func(t time.Time) {
		if !t.IsZero() && (d.IsZero() || t.Before(d)) {
			d = t
		}
	}
	soonest(l.retry)
	soonest(l.proof)
	if !l.hold.IsZero() {
		soonest(l.held)
	}
	for _, w := range l.workers {
		soonest(w.doom)
	}
	if l.opensHang() {
		soonest(l.tried.Add(patience))
	}
	if w := l.serving; w != nil && l.mode != resting {
		soonest(l.g.lookAgain(w))
	}
	return d
}

// opensHang says that another open is to be tried beside those under way once
// they have taken too long, and that no other try is planned.
func (l *Link) opensHang() bool {
	n := len(l.workers)
	return l.serving == nil && 0 < n && n < maxWorkers && l.retry.IsZero() && !l.ending
}

func (l *Link) onTime(now time.Time) {
	for _, w := range l.workers {
		if !w.doom.IsZero() && !w.doom.After(now) {
			w.doomed()
		}
	}
	if w := l.serving; w != nil && l.mode != resting && !l.g.lookAgain(w).After(now) {
		l.look(w, now)
	}
	if !l.proof.IsZero() && !l.proof.After(now) {
		l.tellUp(now)
	}
	if !l.hold.IsZero() && !l.held.After(now) {
		l.held = now.Add(tick)
		if now.After(l.hold) || mmsg.Queued(l.guest) > holdBytes {
			l.hold = time.Time{}
			l.setMode(draining)
		}
	}
	if l.ending {
		return
	}
	if l.opensHang() && now.Sub(l.tried) >= patience {
		l.startBeside(now)
	}
	if !l.retry.IsZero() && !l.retry.After(now) {
		l.start(now)
	}
}

// look compares the progress of the serving worker with what it was at the last
// tick. A worker without progress is stuck as long as it is busy or has frames to
// read, be it that we have read them in its place. One that sleeps and has none may
// be well, so such a tick does not count; but only progress clears it of the others.
func (l *Link) look(w *worker, now time.Time) {
	elapsed := min(now.Sub(w.looked), tick) // more means that we were stopped, so perhaps all of us
	w.looked = now
	robbed := w.robbed
	w.robbed = false
	p := w.page.Progress.Load()
	if w.moved = p != w.progress; w.moved {
		w.progress, w.stuck, w.quiet = p, 0, 0
		if l.mode == draining {
			l.setMode(watching)
		}
		return
	}
	frames := mmsg.Readable(l.guest)
	if w.page.Busy.Load() == 0 && !frames && !robbed {
		if l.mode == draining {
			l.setMode(watching)
		}
		if w.quiet++; w.quiet >= restAfter {
			l.rest(w)
		}
		return
	}
	w.quiet = 0
	w.stuck += elapsed
	switch {
	case w.stuck >= killAfter:
		w.kill("the plugin did not return from a call in " + killAfter.String())
	case w.stuck >= stallAfter && l.mode == watching && mmsg.Queued(l.guest) > holdBytes:
		l.setMode(draining)
	}
}

// rest ends the watch over an idle worker. The worker may have become busy
// meanwhile: it looks at Watched after it has set Busy, and we do it the other
// way round, so one of us sees it.
func (l *Link) rest(w *worker) {
	w.page.Watched.Store(0)
	if w.page.Busy.Load() == 0 {
		l.setMode(resting)
		return
	}
	w.page.Watched.Store(1)
	w.quiet = 0
}

// watch begins to look at the serving worker's progress.
func (l *Link) watch() {
	if w := l.serving; w != nil && l.mode == resting {
		w.page.Watched.Store(1)
		w.looked, w.quiet, w.moved = time.Now(), 0, false
		l.setMode(watching)
	}
}

// setMode changes who reads the guest's socket; at the end that stays as it is.
func (l *Link) setMode(m mode) {
	if !l.ending {
		l.mode = m
		l.g.loop.mod(l.guest, m.events())
	}
}

// onGuest is called for the events of the guest's socket.
func (l *Link) onGuest(events uint32) {
	switch {
	case events&(unix.EPOLLHUP|unix.EPOLLRDHUP|unix.EPOLLERR) != 0:
		l.guestGone()
	case l.mode == draining:
		l.drain()
	case l.mode == resting:
		l.watch()
	}
}

// drain empties the guest's socket, as far as a few calls do.
func (l *Link) drain() {
	reason := relay.Down
	w := l.serving
	if w != nil {
		reason = relay.Stalled
	}
	for range 16 {
		frames, _, zero, errno := mmsg.Drain(l.guest)
		l.up.In += uint64(frames)
		l.up.Drops[reason] += uint64(frames)
		l.lost += uint64(frames)
		if w != nil && frames > 0 {
			w.robbed = true
		}
		if errno != 0 && errno != unix.ECONNRESET || zero && frames == 0 {
			return
		}
	}
}

// guestGone lets the worker read what the guest has left, and close its plug. One
// that is opening its plug is not killed at once either: it may have made what
// nobody else would remove, a hub's directory for instance.
func (l *Link) guestGone() {
	ending := l.ending
	if l.forgetGuest(); ending {
		return
	}
	for _, w := range l.workers {
		if w == l.serving {
			w.doom = time.Now().Add(eofGrace)
		} else {
			w.terminate()
		}
	}
	l.finishIfDone()
}

// end closes the link from this side. The guest's socket is drained until the
// workers are gone.
func (l *Link) end() {
	if l.ending {
		return
	}
	l.setMode(draining) // also while a plug takes its time to close
	l.ending, l.retry = true, time.Time{}
	for _, w := range l.workers {
		w.terminate()
	}
	l.finishIfDone()
}

func (l *Link) forgetGuest() {
	l.ending, l.retry = true, time.Time{}
	l.g.loop.del(l.guest)
	if l.pidfd >= 0 {
		l.g.loop.del(l.pidfd)
	}
}

func (l *Link) closeGuest() {
	l.forgetGuest()
	_ = unix.Close(l.guest)
	if l.pidfd >= 0 {
		_ = unix.Close(l.pidfd)
	}
}

func (l *Link) finishIfDone() {
	if !l.ending || len(l.workers) > 0 {
		return
	}
	l.closeGuest()
	l.g.ino.forget(l)
	delete(l.g.links, l)
	l.g.log.Info(l.job, fmt.Sprintf("guest to network %s; network to guest %s", &l.up, &l.down))
}

// start starts a worker.
func (l *Link) start(now time.Time) {
	l.retry, l.tried = time.Time{}, now
	if l.trouble.IsZero() {
		l.trouble = now
	}
	w, err := l.spawn(now)
	if err != nil {
		l.isDown(fmt.Errorf("no worker can be started: %w", err), "", now)
		return
	}
	l.workers = append(l.workers, w)
}

// startBeside starts a worker while others have not come to an end with their
// opens: the first one keeps its chance, of the later ones only the last.
func (l *Link) startBeside(now time.Time) {
	if first := l.workers[0]; now.Sub(first.started) >= lastPatience {
		first.kill("")
	}
	for _, w := range l.workers[1:] {
		w.kill("")
	}
	if l.told == "" {
		l.tellDown(errors.New("the plugin does not return from opening it"), now)
	}
	l.start(now)
}

// opened is called when a worker has opened the plug: it may go on, if it is the first.
func (l *Link) opened(w *worker) {
	if l.serving != nil || l.ending || w.send(GoOn) != nil {
		w.terminate()
		return
	}
	now := time.Now()
	for _, other := range l.workers {
		if other != w {
			other.kill("")
		}
	}
	l.wasUp, l.serving, l.retry, l.hold = true, w, time.Time{}, time.Time{}
	w.looked, w.since = now, now
	w.page.Watched.Store(1)
	l.setMode(watching)
	l.g.ino.forget(l)
	if l.futile && l.told != "" {
		l.proof = now.Add(stableAfter) // else a command that ends at once would be a line down, a line up, for ever
		return
	}
	l.tellUp(now)
}

// tellUp writes a line when the link is up.
func (l *Link) tellUp(now time.Time) {
	if l.told != "" {
		l.g.log.Error(l.job, fmt.Sprintf("link up again after %.1f s; %d frames were dropped",
			now.Sub(l.downAt).Seconds(), l.lost))
	} else {
		l.g.log.Info(l.job, "link up")
	}
	l.downAt, l.told, l.futile, l.proof = time.Time{}, "", false, time.Time{}
}

// gone is called when a worker has ended.
func (l *Link) gone(w *worker) {
	for i := range l.workers {
		if l.workers[i] == w {
			l.workers = append(l.workers[:i], l.workers[i+1:]...)
			break
		}
	}
	l.up.Add(w.page.Up.Totals())
	l.down.Add(w.page.Down.Totals())
	now := time.Now()
	if l.serving == w {
		l.serving, l.proof = nil, time.Time{}
		l.futile = w.why != "" && now.Sub(w.since) < stableAfter && w.page.Down.Totals().Out == 0
		if now.Sub(w.since) >= stableAfter { // the next one will serve at once, likely
			l.trouble = now
			l.holdFrames(now)
		} else {
			l.setMode(draining)
		}
	}
	if l.ending {
		l.finishIfDone()
		return
	}
	switch {
	case l.serving != nil:
	case len(l.workers) > 0: // which are tried beside it
		if !w.killed {
			l.tellDown(w.reason(), now)
		}
	default:
		if l.job.Once && !l.wasUp {
			l.g.err = fmt.Errorf("%s: %w", Show(l.job.VNL), w.reason())
			l.end()
			return
		}
		l.isDown(w.reason(), w.watchFor, now)
	}
}

// isDown announces the loss of the network and plans the next try.
func (l *Link) isDown(why error, watchFor string, now time.Time) {
	l.tellDown(why, now)
	l.g.ino.await(l, watchFor)
	l.retry = now.Add(min(max(now.Sub(l.trouble)/8, minRetry), maxRetry))
}

// holdFrames leaves the guest's frames where they are for a while.
func (l *Link) holdFrames(now time.Time) {
	l.hold, l.held = now.Add(holdFor), now.Add(tick)
	l.setMode(watching)
}

// tellDown writes a line when the link goes down, and another one if the
// reason is no longer the one that the user was given.
func (l *Link) tellDown(why error, now time.Time) {
	if l.downAt.IsZero() {
		l.downAt, l.lost = now, 0
	}
	switch reason := why.Error(); {
	case l.told == "":
		l.g.log.Error(l.job, fmt.Sprintf("link down: %s; trying again", reason))
	case reason != l.told && now.Sub(l.toldAt) >= tellAgain:
		l.g.log.Error(l.job, fmt.Sprintf("link still down: %s; trying again", reason))
	default:
		return
	}
	l.told, l.toldAt = why.Error(), now
}

// appeared is called when what a failed open was missing may be there now.
func (l *Link) appeared() {
	if l.retry.IsZero() {
		return
	}
	l.trouble = time.Now()
	l.retry = l.trouble.Add(10 * time.Millisecond)
}
