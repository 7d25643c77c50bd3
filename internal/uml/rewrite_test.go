package uml

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func sock(unit int) string { return fmt.Sprintf("/run/u%d", unit) }

func TestRewriteReplacesVDEByBess(t *testing.T) {
	args := []string{
		"/usr/bin/linux.uml", "mem=64M", "vector=1", "eth0=vde,x",
		"vec0:transport=vde,vnl=slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400",
		"vec1:transport=tap,ifname=tap0,new=a",
		"vec0x2:mac=02:00:00:00:00:01,descr=my, vm,port=3,mode=0700,group=vde,src=/s,mtu=9000,depth=32,headroom=8,vec=0,gro=0," +
			"bpffile=/b,bpfflash=1,mtu=1,transport=vdefoo,vnl='x://%3D,mtu=9'",
		"vec3:transport=vde", "vec4:transport=vde,vnl=,gro=1",
		`vec5:transport="vde,vnl=cmd://ssh`, "host", `//bin/x"`,
		`vec6:transport="tap,ifname=a`, `b"`,
		`vec7:transport=vde,descr="my`, `vm",vnl="cmd://ssh`, "host", `//x"`,
		`vec8:transport=vde,vnl=cmd://echo "`, `a="b"`,
		"init=/x", "--", "vec0:transport=vde",
	}
	wantArgs := []string{
		"/usr/bin/linux.uml", "mem=64M", "vector=1", "eth0=vde,x",
		"vec0:transport=bess,dst=/run/u0",
		"vec1:transport=tap,ifname=tap0,new=a",
		"vec2:transport=bess,dst=/run/u2,mac=02:00:00:00:00:01,mtu=9000,depth=32,headroom=8,vec=0,gro=0,bpffile=/b,bpfflash=1",
		"vec3:transport=bess,dst=/run/u3", "vec4:transport=bess,dst=/run/u4,gro=1",
		"vec5:transport=bess,dst=/run/u5",
		`vec6:transport="tap,ifname=a`, `b"`,
		"vec7:transport=bess,dst=/run/u7",
		"vec8:transport=bess,dst=/run/u8", `a="b"`,
		"init=/x", "--", "vec0:transport=vde",
	}
	wantLinks := []Link{
		{Unit: 0, VNL: "slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400", Limit: 1566},
		{
			Unit: 2, VNL: "x://=,mtu=9", Descr: "my, vm", Port: "3", Mode: "0700", Group: "vde",
			Limit: 9072,
		},
		{Unit: 3, Limit: 1566},
		{Unit: 4, Limit: 65536},
		{Unit: 5, VNL: "cmd://ssh host //bin/x", Limit: 1566},
		{Unit: 7, VNL: "cmd://ssh host //x", Descr: "my vm", Limit: 1566},
		{Unit: 8, VNL: `cmd://echo "`, Limit: 1566},
	}
	given := slices.Clone(args)
	gotArgs, gotLinks, err := Rewrite(args, sock)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(gotArgs, wantArgs) {
		t.Errorf("arguments\n%s\nwant\n%s", strings.Join(gotArgs, "\n"), strings.Join(wantArgs, "\n"))
	}
	if !reflect.DeepEqual(gotLinks, wantLinks) {
		t.Errorf("links\n%+v\nwant\n%+v", gotLinks, wantLinks)
	}
	if !slices.Equal(args, given) {
		t.Error("the arguments given were changed")
	}
}

func TestRewriteTellsWhatToWrite(t *testing.T) {
	vde := "vec0:transport=vde,vnl=x://y"
	for _, test := range []struct {
		name, path, want string
		args             []string
	}{
		{name: "two of a number", args: []string{vde, "vec0x0:transport=vde"}, want: `"vec0x0:transport=vde": there is a vec0 already`},
		{name: "two of a number, one is vde", args: []string{vde, "vec0:transport=tap,ifname=t"}, want: "there is a vec0 already"},
		{name: "two of a number, the other is vde", args: []string{"vec0:transport=tap,ifname=t", vde}, want: "there is a vec0 already"},
		{name: "mtu too small", args: []string{vde + ",mtu=575"}, want: "a kernel ignores mtu=575: write one of 576 to 65534 bytes"},
		{name: "mtu too large", args: []string{vde + ",mtu=65535"}, want: "a kernel ignores mtu=65535: write one of 576 to 65534 bytes"},
		{name: "mtu in words", args: []string{vde + ",mtu=big"}, want: "a kernel ignores mtu=big: write a number"},
		{name: "no mtu", args: []string{vde + ",mtu="}, want: `a kernel cannot take mtu=""`},
		{name: "gro in words", args: []string{vde + ",gro=yes"}, want: "a kernel ignores gro=yes: write a number"},
		{name: "mac with a space", args: []string{vde + ",mac=02:00:00:00:00:01 quiet"}, want: `a kernel cannot take mac="02:00:00:00:00:01 quiet"`},
		{name: "bad unit", args: []string{"vec0b1:transport=vde"}, want: "no number of a device"},
		{name: "no colon", args: []string{"vec0=transport=vde"}, want: "no number of a device"},
		{name: "open quote", args: []string{`vec0:transport="vde,vnl=cmd://ssh`, "host"}, want: "a quote is out of place"},
		{name: "quotes for no shell", args: []string{`vec0:transport=\"vde,vnl=x\"`}, want: "a quote is out of place"},
		{name: "path with a comma", args: []string{vde}, path: "/run/a,b", want: "a kernel cannot connect to the socket \"/run/a,b\""},
		{name: "path with =", args: []string{vde}, path: "/run/a=b", want: "choose a path without"},
		{name: "path with a space", args: []string{vde}, path: "/run/a b", want: "choose a path without"},
		{name: "path with a space in Latin-1", args: []string{vde}, path: "/run/à", want: "choose a path without"},
		{name: "path with a quote", args: []string{vde}, path: `/run/"a`, want: "choose a path without"},
		{name: "path too long", args: []string{vde}, path: strings.Repeat("x", 108), want: "has 108 bytes: choose one of at most 107"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args, links, err := Rewrite(test.args, func(int) string {
				if test.path != "" {
					return test.path
				}
				return "/run/s"
			})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, test.want)
			}
			if args != nil || links != nil {
				t.Errorf("with the error came %q, %+v", args, links)
			}
		})
	}
}

func TestRewriteTakesTheLongestPath(t *testing.T) {
	path := "/" + strings.Repeat("x", 106)
	args, _, err := Rewrite([]string{"vec0:transport=vde"}, func(int) string { return path })
	if err != nil || args[0] != "vec0:transport=bess,dst="+path {
		t.Errorf("%q, %v", args, err)
	}
}

func FuzzRewrite(f *testing.F) {
	for _, r := range rows {
		f.Add("quiet\n" + r.arg + "\nvec1:transport=tap,ifname=t")
	}
	f.Add("vec0:transport=\"vde,vnl=cmd://ssh\nhost\n//bin/x\"\nvec1:transport=vde,mtu=9000")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		newArgs, links, err := Rewrite(args, sock)
		if err != nil {
			if newArgs != nil || links != nil {
				t.Fatalf("%q: both %q and %v", args, newArgs, err)
			}
			return
		}
		again, none, err := Rewrite(newArgs, sock)
		if err != nil || len(none) > 0 || !slices.Equal(again, newArgs) {
			t.Fatalf("%q: %q, %+v, %v", newArgs, again, none, err)
		}
		for _, link := range links {
			dst := func(s Spec) bool { v, _ := s.Get("dst"); return s.Is("bess") && v == sock(link.Unit) }
			i := slices.IndexFunc(newArgs, func(arg string) bool {
				s, ok := kernelParse(arg)
				return ok && s.Unit == link.Unit && dst(s) && s.frameLimit() == link.Limit
			})
			if i < 0 {
				t.Fatalf("%q: no kernel reads link %+v in %q", args, link, newArgs)
			}
		}
	})
}
