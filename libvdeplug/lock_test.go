//go:build linux

package libvdeplug

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
	"time"
)

// queue returns how many wait for a lock.
func (l *lock) queue() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// TestLockInTurn has waiters that get a lock in their order, and some that leave.
func TestLockInTurn(t *testing.T) {
	const n = 20
	l := newLock()
	if !l.try() {
		t.Fatal("a new lock is not free")
	}
	give := make([]chan struct{}, n) // closed to make a waiter leave
	got := make(chan int, n)
	var all sync.WaitGroup
	for i := range n {
		give[i] = make(chan struct{})
		all.Add(1)
		go func() {
			defer all.Done()
			if l.try() {
				t.Error("got it while it was held")
			}
			select {
			case <-l.passed:
				got <- i
				l.unlock()
			case <-give[i]:
				l.leave()
			}
		}()
		for asleep := 0; asleep != i+1; { // in its select
			buf := make([]byte, 1<<20)
			stacks := buf[:runtime.Stack(buf, true)]
			asleep = bytes.Count(stacks, []byte(" [select]:\ngithub.com/umlvde/umlvde/libvdeplug.TestLockInTurn.func"))
		}
	}
	for i := 0; i < n; i += 3 {
		close(give[i])
	}
	for l.queue() != n-(n+2)/3 {
		runtime.Gosched()
	}
	l.unlock()
	all.Wait()
	close(got)
	last := 0
	for i := range got {
		if i <= last && last > 0 || i%3 == 0 {
			t.Errorf("number %d after number %d", i, last)
		}
		last = i
	}
	free(t, l)
}

// TestLockAlone has many that take a lock, wait for it or change their mind.
func TestLockAlone(t *testing.T) {
	const callers, rounds = 8, 3000
	l := newLock()
	var held, taken int // guarded by l
	var left [callers]int
	var all sync.WaitGroup
	for i := range callers {
		all.Add(1)
		go func() {
			defer all.Done()
			for r := range rounds {
				if !l.try() {
					var enough <-chan time.Time
					if i%2 == 0 { // the others wait as long as it takes
						enough = time.After(time.Duration(r%7) * time.Microsecond)
					}
					select {
					case <-l.passed:
					case <-enough:
						l.leave()
						left[i]++
						continue
					}
				}
				if held++; held != 1 {
					t.Errorf("%d hold it", held)
				}
				if r%5 == 0 {
					runtime.Gosched()
				}
				held--
				taken++
				l.unlock()
			}
		}()
	}
	all.Wait()
	sum := taken
	for _, n := range left {
		sum += n
	}
	if sum != callers*rounds {
		t.Errorf("taken %d times, left %v times, of %d", taken, left, callers*rounds)
	}
	free(t, l)
}

func free(t *testing.T, l *lock) {
	t.Helper()
	if l.state.Load() != lockFree || l.waiting != 0 || len(l.passed) != 0 {
		t.Errorf("not free afterwards: state %d, %d in the queue, %d passed", l.state.Load(), l.waiting, len(l.passed))
	}
}
