package uml

import (
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// What a user writes after umlvde run, and what it means.
func TestParse(t *testing.T) {
	for _, tc := range []struct {
		arg     string
		options []Option // nil: not a vecN: argument
	}{
		{"vec0:transport=vde,vnl=slirp://", []Option{{"transport", "vde"}, {"vnl", "slirp://"}}},
		{"vec0:transport=vde,vnl=vxvde://239.1.2.3/ttl=2", []Option{{"transport", "vde"}, {"vnl", "vxvde://239.1.2.3/ttl=2"}}},
		{
			"vec0:transport=vde,vnl=slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400",
			[]Option{{"transport", "vde"}, {"vnl", "slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400"}},
		},
		{"vec0:vnl=a,b,mtu=1400,transport=vde", []Option{{"vnl", "a,b"}, {"mtu", "1400"}, {"transport", "vde"}}},
		{"vec0:transport=vde,vnl=a,mtux=1", []Option{{"transport", "vde"}, {"vnl", "a,mtux=1"}}},
		{"vec0:transport=vde,vnl=slirp:///addr%3D10.7.0.2", []Option{{"transport", "vde"}, {"vnl", "slirp:///addr%3D10.7.0.2"}}},
		{`vec0:transport="vde,vnl=cmd://ssh host //tmp/sshlirp"`, []Option{{"transport", "vde"}, {"vnl", "cmd://ssh host //tmp/sshlirp"}}},
		{`"vec0:transport=vde,vnl=cmd://ssh host //tmp/x"`, []Option{{"transport", "vde"}, {"vnl", "cmd://ssh host //tmp/x"}}},
		{`vec0:transport=vde,vnl="cmd://ssh host //tmp/x"`, []Option{{"transport", "vde"}, {"vnl", `"cmd://ssh host //tmp/x"`}}},
		{"vec0:transport=vde,vnl=cmd://ssh host //tmp/x", []Option{{"transport", "vde"}, {"vnl", "cmd://ssh host //tmp/x"}}},
		{`vec0:transport="vde,vnl=slirp://,descr=my vm"`, []Option{{"transport", "vde"}, {"vnl", "slirp://"}, {"descr", "my vm"}}},
		{"vec0:transport=vde,vnl=vde:///tmp/sw[3]", []Option{{"transport", "vde"}, {"vnl", "vde:///tmp/sw[3]"}}},
		{"vec0:transport=vde,vnl=-h", []Option{{"transport", "vde"}, {"vnl", "-h"}}},
		{"vec0:transport=vde,vnl=", []Option{{"transport", "vde"}, {"vnl", ""}}},
		{"vec0:transport=vde,vnl=,mtu=1400", []Option{{"transport", "vde"}, {"vnl", ""}, {"mtu", "1400"}}},
		{"vec0:transport=vde", []Option{{"transport", "vde"}}},
		{"vec12:transport=tap,ifname=tap0", []Option{{"transport", "tap"}, {"ifname", "tap0"}}},
		{"mem=128M", nil},
		{"vec", nil},
		{"vec0", nil},
		{"vec:transport=vde", nil},
		{"vecx:transport=vde", nil},
		{"", nil},
	} {
		spec, ok, err := Parse(tc.arg)
		if err != nil || ok != (tc.options != nil) || !reflect.DeepEqual(spec.Options, tc.options) {
			t.Errorf("%s: %v %v %v, not %v", tc.arg, spec.Options, ok, err, tc.options)
		}
	}
}

func TestParseNamesTheMistake(t *testing.T) {
	for arg, says := range map[string]string{
		"vec0:transport=vde,vnI=slirp://": "", // the typo is part of the transport's value, which Rewrite sees
		"vec0:nosuch=1,transport=vde":     `"nosuch=1" is not an option of a vector device`,
		"vec0:vde":                        `"vde" is not an option of a vector device`,
	} {
		_, _, err := Parse(arg)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, not %q", arg, err, says)
		}
	}
}

// What a kernel makes of the same words (observed on 6.1 to 7.2).
func TestKernelsUnderstanding(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"vec0:transport=vde,vnl=a,b"}, "[vec0:transport=vde,vnl=a]"},
		{[]string{"vec0:transport=vde,vnl=vxvde://239.1.2.3/ttl=2"}, "[]"},
		{[]string{`vec0:transport="vde,vnl=cmd://ssh host //tmp/x"`}, "[vec0:transport=vde,vnl=cmd://ssh host //tmp/x]"},
		{[]string{`"vec0:transport=vde,vnl=cmd://ssh host //tmp/x"`}, "[vec0:transport=vde,vnl=cmd://ssh host //tmp/x]"},
		{[]string{"vec0:transport=vde,vnl=cmd://ssh host //tmp/x"}, "[vec0:transport=vde,vnl=cmd://ssh]"},
		{[]string{"mem=64M", "vec0:transport=bess,dst=/a", "--", "vec1:transport=bess,dst=/b"}, "[vec0:transport=bess,dst=/a]"},
	} {
		if got := fmt.Sprint(kernelSpecs(tc.args)); got != tc.want {
			t.Errorf("%q: %s, not %s", tc.args, got, tc.want)
		}
	}
}

func TestCleanVNL(t *testing.T) {
	for in, want := range map[string]string{
		"slirp://":                      "slirp://",
		`"cmd://ssh host //tmp/x"`:      "cmd://ssh host //tmp/x",
		`'x://y'`:                       "x://y",
		`'x://y"`:                       `'x://y"`,
		`""x""`:                         `"x"`,
		`"`:                             `"`,
		"slirp:///addr%3D10.7.0.2":      "slirp:///addr=10.7.0.2",
		"a%2cb%2Cc%20d%3d":              "a,b,c d=",
		"tap://%41":                     "tap://%41",
		"%253D":                         "%253D",
		"":                              "",
		"vde:///tmp/sw[3]":              "vde:///tmp/sw[3]",
		"cmd://sh -c 'echo \"a b\"; x'": "cmd://sh -c 'echo \"a b\"; x'",
	} {
		if got := CleanVNL(in); got != want {
			t.Errorf("%q becomes %q, not %q", in, got, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	path := func(unit int) string { return fmt.Sprintf("/tmp/x/vec%d", unit) }
	argv, links, err := Rewrite([]string{
		"vec9:transport=vde", "mem=128M",
		"vec0:transport=vde,vnl=slirp:///a=b,c=d,mac=02:00:00:00:00:01,depth=32,vec=0,descr=my vm,port=3,mode=0700,group=vde",
		"vec1:transport=tap,ifname=tap0", "vec2:transport=vdefoo,mtu=9000", `vec3:vnl='tap://t',gro=1,transport=vde`,
		"vec4:transport=nosuch=,x", "init=/x",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"vec9:transport=vde", "mem=128M",
		"vec0:transport=bess,dst=/tmp/x/vec0,mac=02:00:00:00:00:01,depth=32,vec=0",
		"vec1:transport=tap,ifname=tap0", "vec2:transport=bess,dst=/tmp/x/vec2,mtu=9000", "vec3:transport=bess,dst=/tmp/x/vec3,gro=1",
		"vec4:transport=nosuch=,x", "init=/x",
	}
	if !reflect.DeepEqual(argv, want) {
		t.Errorf("the arguments are\n%q, not\n%q", argv, want)
	}
	wantLinks := []Link{
		{Unit: 0, VNL: "slirp:///a=b,c=d", Descr: "my vm", Port: "3", Mode: "0700", Group: "vde", Limit: 1566},
		{Unit: 2, Limit: 9066},
		{Unit: 3, VNL: "tap://t", Limit: 65536},
	}
	if !reflect.DeepEqual(links, wantLinks) {
		t.Errorf("the links are\n%+v, not\n%+v", links, wantLinks)
	}
}

func TestRewriteRefuses(t *testing.T) {
	good := func(int) string { return "/tmp/x" }
	for _, tc := range []struct {
		arg  string
		path func(int) string
		says string
	}{
		{"vec0:transport=vde,vnl=slirp://,mtu=1", good, "mtu=1 is not a number from 576 to 65534"},
		{"vec0:transport=vde,vnl=slirp://,mtu=x", good, "mtu=x"},
		{"vec0:transport=vde,vnl=slirp://,ifname=tap0", good, "transport=vde has no option ifname="},
		{"vec0:transport=vde", func(int) string { return "/tmp/a,b" }, "cannot hold the path"},
		{"vec0:transport=vde", func(int) string { return strings.Repeat("x", 108) }, "cannot hold the path"},
		{"vec0:nosuch=1,transport=vde", good, `"nosuch=1" is not an option`},
		{"vec0:transport=vde,vnl=a,mac=1=2", good, "mac=1=2"},
	} {
		_, _, err := Rewrite([]string{"linux", tc.arg}, tc.path)
		if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, not %q", tc.arg, err, tc.says)
		}
	}
	if _, _, err := Rewrite([]string{"linux", "vec0:transport=vde", "vec0:transport=vde"}, good); err == nil {
		t.Error("two vec0 are accepted")
	}
}

// The command line of a process, as it was given, tells what its devices take.
func TestRunningLimit(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x", "vec0:transport=vde,vnl=slirp://,mtu=4000", "vec1:transport=vde,vnl=null://", "vec2:transport=vde,vnl=null://,mtu=99999")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait() // read fails at the end of its input
	}()
	for vnl, want := range map[string]int{"slirp://": 4066, "null://": DefaultFrameLimit} {
		limit, ok := RunningLimit(cmd.Process.Pid, func(s Spec) bool { v, _ := s.Get("vnl"); return v == vnl })
		if !ok || limit != want {
			t.Errorf("%s: %d %v, not %d", vnl, limit, ok, want)
		}
	}
	if _, ok := RunningLimit(cmd.Process.Pid, func(Spec) bool { return false }); ok {
		t.Error("a limit of no device")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"vec0:transport=vde,vnl=slirp:///tcpfwd=1:2:3,4:5:6/mtu=1400,mtu=9000", `vec0:transport="vde,vnl=cmd://ssh host //tmp/x"`,
		`"vec1:transport=vde"`, "vec0:", "vec:", "vec99999999999999999999:a=b", "vec0:=,=,", "vec0:vnl=,vnl=,mac=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		spec, ok, err := Parse(arg)
		if !ok || err != nil {
			if len(spec.Options) > 0 {
				t.Errorf("%q: a result and an error", arg)
			}
			return
		}
		again, ok, err := Parse(spec.String())
		// Quotes are stripped once, so those of a value may look like the outer ones now.
		if err != nil || !ok || !strings.Contains(arg, `"`) && !reflect.DeepEqual(again, spec) {
			t.Errorf("%q is %q, which is read as %+v %v %v", arg, spec, again, ok, err)
		}
	})
}

func FuzzKernelSpecs(f *testing.F) {
	f.Add(`vec0:transport="vde,vnl=a b" vec1:x=y -- vec2:transport=vde`)
	f.Add(`"vec0:a=b" vec0x1:c=d vec010:e=f,,=,g=h=i`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, s := range kernelSpecs(strings.Split(line, " ")) {
			for _, o := range s.Options {
				if strings.ContainsAny(o.Value, ",=") {
					t.Errorf("%q: the kernel cannot have read %+v", line, o)
				}
			}
		}
	})
}

func FuzzCleanVNL(f *testing.F) {
	for _, s := range []string{`"a"`, "'", "%3D%2C%20", "%%3D", `""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := CleanVNL(s)
		if len(got) > len(s) {
			t.Errorf("%q became longer: %q", s, got)
		}
		if !strings.ContainsAny(s, `%'"`) && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func FuzzRewrite(f *testing.F) {
	f.Add("vec0:transport=vde,vnl=a,b,mtu=9000")
	f.Add("vec0:transport=vde,mac=02:00:00:00:00:01,descr=x y")
	f.Fuzz(func(t *testing.T, arg string) {
		argv, links, err := Rewrite([]string{"linux", arg}, func(int) string { return "/tmp/s" })
		if err != nil {
			if argv != nil || links != nil {
				t.Errorf("%q: a result and an error", arg)
			}
			return
		}
		if len(argv) != 2 || len(links) > 1 {
			t.Fatalf("%q: %q %v", arg, argv, links)
		}
		if len(links) == 1 { // what the kernel is given must be what it understands
			got := kernelSpecs(argv[1:])
			if len(got) != 1 || !got[0].Is("bess") || got[0].Unit != links[0].Unit {
				t.Errorf("%q: a kernel makes %v of %q", arg, got, argv[1])
			}
		}
	})
}
