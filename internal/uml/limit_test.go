package uml

import (
	"os/exec"
	"testing"
)

func TestRunningLimitIsTheLargestOfThoseThatMatch(t *testing.T) {
	for _, test := range []struct {
		want int // 0: none
		args []string
	}{
		{0, nil},
		{0, []string{"mem=64M", "eth0=vde,x"}},
		{0, []string{"vec0:transport=tap,ifname=t"}},
		{0, []string{"--", "vec0:transport=vde,vnl=x"}},
		{1566, []string{"vec0:transport=vde,vnl=x", "vec1:transport=vde,mtu=9000,vnl=y"}},
		{9066, []string{"vec0:transport=vde,vnl=x", "vec1:transport=vde,mtu=9000,vnl=x"}},
		{9066, []string{`vec1:transport="vde,vnl=x,descr=a`, `b,mtu=9000"`}},
		{65536, []string{"vec0:transport=vdefoo,vnl=x,gro=1"}},
		{1566, []string{"vec0:transport=vde,vnl=x,gro=0,mtu=575"}},
		{1566, []string{"vec0:transport=vde,vnl=x,gro=yes,mtu=65535,headroom=99999999999"}},
		{65600, []string{"vec0:transport=vde,vnl=x,gro=1,mtu=65534"}},
		{1564, []string{"vec0:transport=vde,vnl=x,headroom=0"}},
	} {
		pid := startIdle(t, test.args) // not a kernel, but it has its arguments
		limit, ok := RunningLimit(pid, func(s Spec) bool {
			vnl, _ := s.Get("vnl")
			return s.Is("vde") && vnl == "x"
		})
		if limit != test.want || ok != (test.want != 0) {
			t.Errorf("%q: %d, %v, want %d", test.args, limit, ok, test.want)
		}
	}
}

// startIdle starts a process that has arguments and does nothing.
func startIdle(t *testing.T, args []string) (pid int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", "echo; read -r x", "linux"}, args...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait() // read has failed
	})
	// Right after exec a process has no arguments yet.
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestRunningLimitOfNoProcess(t *testing.T) {
	if limit, ok := RunningLimit(-1, func(Spec) bool { return true }); ok || limit != 0 {
		t.Errorf("%d, %v", limit, ok)
	}
}

func TestFrameLimit(t *testing.T) {
	for _, test := range []struct {
		mtu  int
		gro  bool
		want int
	}{
		{1500, false, DefaultFrameLimit}, {1500, false, 1566}, {9000, false, 9066}, {1500, true, 65536}, {65534, true, 65600},
	} {
		if got := frameLimit(test.mtu, defaultHeadroom, test.gro); got != test.want {
			t.Errorf("mtu %d, gro %v: %d, want %d", test.mtu, test.gro, got, test.want)
		}
	}
}
