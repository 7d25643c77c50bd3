package uml

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// row is an argument, what a kernel makes of it, and what Parse does.
type row struct {
	name string
	arg  string

	// helper is what follows seqpacket://N when a kernel starts vde_plug, "none"
	// for none at all; options is what comes before it, "--descr|UML" if "".
	helper, options string

	vnl string // that Parse reads
	err string // or of its error
}

const (
	noHelper = "none"
	noVNL    = "missing"
)

var rows = []row{
	{name: "plain", arg: `vec0:transport=vde,vnl=slirp://`, helper: "slirp://", vnl: "slirp://"},
	{name: "transport comes anywhere", arg: `vec0:vnl=x://y,mtu=1400,transport=vde`, helper: "x://y", vnl: "x://y"},
	{name: "transport counts by its prefix", arg: `vec0:transport=vdefoo,vnl=x://y`, helper: "x://y", vnl: "x://y"},
	{name: "of a repeated key the first wins", arg: `vec0:transport=vde,vnl=a,vnl=b`, helper: "a", vnl: "a"},
	{name: "second =", arg: `vec0:transport=vde,vnl=vxvde://239.1.2.3/ttl=2`, helper: noHelper, vnl: "vxvde://239.1.2.3/ttl=2"},
	{name: "second = at once", arg: `vec0:transport=vde,vnl=slirp:///vnetwork=10.1.0.0/24`, helper: noHelper, vnl: "slirp:///vnetwork=10.1.0.0/24"},
	{name: "comma", arg: `vec0:transport=vde,vnl=a,b`, helper: "a", vnl: "a,b"},
	{
		name:   "commas and = up to the next option",
		arg:    `vec0:transport=vde,vnl=slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400,mtu=1300`,
		helper: noHelper,
		vnl:    "slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400",
	},
	{name: "an option's name in quotes is the VNL's", arg: `vec0:transport=vde,vnl='x://a,mtu=9',mtu=1300`, helper: "'x://a", vnl: "x://a,mtu=9"},
	{name: "encoded", arg: `vec0:transport=vde,vnl=slirp:///addr%3D10.7.0.2`, helper: "slirp:///addr%3D10.7.0.2", vnl: "slirp:///addr=10.7.0.2"},
	{name: "file", arg: `vec0:transport=vde,vnl=/path/net.vnl`, helper: "/path/net.vnl", vnl: "/path/net.vnl"},
	{name: "quotes after the first =", arg: `vec0:transport="vde,vnl=cmd://ssh host //tmp/sshlirp"`, helper: "cmd://ssh host //tmp/sshlirp", vnl: "cmd://ssh host //tmp/sshlirp"},
	{name: "quotes around all", arg: `"vec0:transport=vde,vnl=cmd://ssh host //tmp/x"`, helper: "cmd://ssh host //tmp/x", vnl: "cmd://ssh host //tmp/x"},
	{name: "quotes around the VNL", arg: `vec0:transport=vde,vnl="cmd://ssh host //tmp/x"`, helper: `"cmd://ssh host //tmp/x"`, vnl: "cmd://ssh host //tmp/x"},
	{name: "quotes around a VNL that comes first", arg: `vec0:vnl="x://y z",transport=vde`, helper: `x://y z"`, vnl: "x://y z"},
	{name: "quotes around each value", arg: `vec0:transport="vde",vnl="x://y"`, helper: `"x://y`, vnl: "x://y"},
	{name: "spaces without quotes", arg: `vec0:transport=vde,vnl=cmd://ssh host //tmp/x`, helper: "cmd://ssh", vnl: "cmd://ssh host //tmp/x"},
	{name: "quotes with backslashes", arg: `vec0:transport=\"vde,vnl=x://y\"`, helper: noHelper, err: "a quote is out of place in transport="},
	{name: "single quotes", arg: `vec0:transport=vde,vnl='x://y'`, helper: "'x://y'", vnl: "x://y"},
	{name: "description with a space", arg: `vec0:transport="vde,vnl=slirp://,descr=my vm"`, options: "--descr|my vm", helper: "slirp://", vnl: "slirp://"},
	{name: "brackets", arg: `vec0:transport=vde,vnl=vde:///tmp/sw[3]`, helper: "vde:///tmp/sw[3]", vnl: "vde:///tmp/sw[3]"},
	{name: "a dash", arg: `vec0:transport=vde,vnl=-h`, helper: "-h", vnl: "-h"},
	{name: "no VNL", arg: `vec0:transport=vde`, helper: noVNL},
	{name: "no VNL, but a comma", arg: `vec0:transport=vde,`, helper: noVNL},
	{name: "empty VNL at the end", arg: `vec0:transport=vde,vnl=`, helper: noVNL},
	{name: "empty VNL", arg: `vec0:transport=vde,,vnl=,mtu=1400`, helper: ""},
	{name: "UTF-8 that ends in what is a space in Latin-1", arg: "vec0:transport=vde,vnl=x://à", helper: "x://\xc3", vnl: "x://à"},
	{
		name: "all that concerns VDE", arg: `vec0:transport=vde,group=g,mode=0700,port=3,descr=d,vnl=x://y`,
		options: "--descr|d|--port2|3|--mod2|0700|--group2|g", helper: "x://y", vnl: "x://y",
	},
	{name: "option without a value", arg: `vec0:transport=vde,promisc,vnl=x://y`, helper: "x://y", err: `a kernel drops the option "promisc"`},
	{name: "unknown option", arg: `vec0:transport=vde,vln=x://y`, helper: noVNL, err: `no kernel knows the option "vln"`},
}

// kernelHelper is the end of a helper's command line, as of a row.
func (s Spec) kernelHelper() (options, helper string) {
	options = "--descr|UML"
	if descr, ok := s.Get("descr"); ok {
		options = "--descr|" + descr
	}
	for _, key := range []string{"port", "mode", "group"} {
		if value, ok := s.Get(key); ok {
			options += "|--" + strings.TrimSuffix(key, "e") + "2|" + value
		}
	}
	helper, ok := s.Get("vnl")
	switch {
	case !s.Is("vde"):
		return "", noHelper
	case !ok:
		helper = noVNL
	}
	return options, helper
}

func TestKernelParseIsTheKernels(t *testing.T) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			options, helper := "", noHelper
			for _, spec := range kernelSpecs([]string{"quiet", r.arg, "--", "vec7:transport=vde"}) {
				options, helper = spec.kernelHelper()
			}
			wantOptions := r.options
			if wantOptions == "" && r.helper != noHelper {
				wantOptions = "--descr|UML"
			}
			if options != wantOptions || helper != r.helper {
				t.Errorf("%s: helper %q %q, want %q %q", r.arg, options, helper, wantOptions, r.helper)
			}
		})
	}
}

func TestParseReadsWhatWasMeant(t *testing.T) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			spec, err := Parse(r.arg)
			if r.err != "" {
				if err == nil || !strings.Contains(err.Error(), r.err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("%s: error %v, want one line with %q", r.arg, err, r.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if vnl, _ := spec.Get("vnl"); vnl != r.vnl {
				t.Errorf("%s: VNL %q, want %q", r.arg, vnl, r.vnl)
			}
		})
	}
}

func TestParseTellsWhatToWrite(t *testing.T) {
	for arg, want := range map[string]string{
		`vec:transport=vde`:           "no number of a device: write vecN:transport=",
		`vec-1:transport=vde`:         "no number of a device",
		`vec08:transport=vde`:         "no number of a device",
		`vec2147483648:transport=vde`: "no number of a device",
		`vec0=transport=vde`:          "no number of a device",
		`eth0=vde`:                    "no number of a device",
		`"vec0:transport=vde`:         "the quote at its start is not closed",
		`"`:                           "the quote at its start is not closed",
		`vec0:`:                       "transport= is missing: write vec0:transport=vde,vnl=VNL",
		`vec3:vnl=x`:                  "transport= is missing: write vec3:transport=vde,vnl=VNL",
		`vec0:transport="vde`:         `a quote is out of place in transport="vde`,
		`vec0:transport=vde,mtu`:      `a kernel drops the option "mtu"`,
	} {
		if _, err := Parse(arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", arg, err, want)
		}
	}
}

func TestUnitIsReadAsTheKernelDoes(t *testing.T) {
	for arg, want := range map[string]int{
		"vec0:transport=vde": 0, "vec12:transport=vde": 12, "vec0x1F:transport=vde": 31, "vec010:transport=vde": 8,
		"vec2147483647:transport=vde": 2147483647,
	} {
		if spec, err := Parse(arg); err != nil || spec.Unit != want {
			t.Errorf("%s: unit %d, %v, want %d", arg, spec.Unit, err, want)
		}
	}
}

func TestSpecStringIsWhatAKernelTakes(t *testing.T) {
	spec := Spec{3, []Option{{"transport", "vde"}, {"vnl", "cmd://ssh a,b=c"}, {"descr", "my vm"}}}
	if got, want := spec.String(), `"vec3:transport=vde,vnl=cmd://ssh%20a%2Cb%3Dc,descr=my vm"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzVector(f *testing.F) {
	for _, r := range rows {
		f.Add(r.arg)
	}
	f.Add(`vec0:descr='"a',transport=vde,port=7"`)
	f.Add(`vec0:vnl="'x'",descr=",b",transport=vde`)
	f.Fuzz(func(t *testing.T, arg string) {
		spec, err := Parse(arg)
		if err != nil {
			if !reflect.DeepEqual(spec, Spec{}) {
				t.Fatalf("%q: both %+v and %v", arg, spec, err)
			}
			return
		}
		again, err := Parse(spec.String())
		if err != nil || !reflect.DeepEqual(again, spec) {
			t.Fatalf("%q: %+v\n%s: %+v, %v", arg, spec, spec, again, err)
		}
		if !spec.kernelTakes() {
			return
		}
		specs := kernelSpecs([]string{"a", spec.String(), "b"})
		if len(specs) != 1 {
			t.Fatalf("%s: a kernel reads %+v", spec, specs)
		}
		for i, o := range specs[0].Options {
			if o.Key == "vnl" {
				specs[0].Options[i].Value = CleanVNL(o.Value)
			}
		}
		if !reflect.DeepEqual(specs[0], spec) {
			t.Fatalf("%s: a kernel reads %+v, not %+v", spec, specs[0], spec)
		}
	})
}

// kernelTakes tells whether String promises that a kernel reads the same.
func (s Spec) kernelTakes() bool {
	last := s.Options[len(s.Options)-1]
	return last.Value != "" && !slices.ContainsFunc(s.Options, func(o Option) bool {
		return strings.HasPrefix(o.Value, "'") || strings.Contains(o.Value, `"`) ||
			o.Key != "vnl" && strings.ContainsAny(o.Value, "=,")
	})
}
