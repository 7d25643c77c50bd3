package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/umlvde/umlvde/internal/guard"
)

// The command lines that UML kernels and C programs write.
func TestGuestAndNetwork(t *testing.T) {
	for _, tc := range []struct {
		args  string // separated by '|'
		guest int
		job   guard.Job
	}{
		{"--descr|UML|seqpacket://17|slirp://", 17, guard.Job{Descr: "UML", VNL: "slirp://"}},
		{
			"--descr|UML|--port2|5|--mod2|0700|--group2|vde|seqpacket://17|/tmp/s", 17,
			guard.Job{Descr: "UML", VNL: "/tmp/s", Port: 5, Mode: 0o700, Group: "vde"},
		},
		{"--descr|UML vde_transport|--group2|g|--mod2|0700|seqpacket://17|", 17, // 6.1's eth0=vde
			guard.Job{Descr: "UML vde_transport", Mode: 0o700, Group: "g"}},
		{"--descr|UML|seqpacket://17", 17, guard.Job{Descr: "UML"}},
		{"tap://t|seqpacket://4|-D|x|-g|g|-m|600|--port|2|-G|other", 4, guard.Job{Descr: "x", VNL: "tap://t", Port: 2, Mode: 0o600, Group: "g"}},
		{"-vDx|seqpacket://4|null://", 4, guard.Job{Descr: "x", VNL: "null://"}},
		{"seqpacket://4|seqpacket://5", 4, guard.Job{VNL: "seqpacket://5"}},
	} {
		o, err := parsePlugOptions("vde_plug", strings.Split(tc.args, "|"), &bytes.Buffer{})
		if err != nil {
			t.Errorf("%s: %v", tc.args, err)
			continue
		}
		guest, end, vnl, err := o.guestAndNetwork()
		got := guard.Job{VNL: vnl, Descr: o.descr, Port: int(end.port), Group: end.group, Mode: uint32(end.mode)}
		if err != nil || guest != tc.guest || got != tc.job {
			t.Errorf("%s: %d %+v %v, not %d %+v", tc.args, guest, got, err, tc.guest, tc.job)
		}
	}
}

// Help goes to standard output, and is no failure.
func TestHelp(t *testing.T) {
	for _, args := range []string{"umlvde --help", "vde_plug -h", "umlvde run --help", "umlvde listen -h"} {
		var out, said bytes.Buffer
		if code := dispatch(strings.Fields(args), &out, &said); code != 0 || said.Len() > 0 || !strings.HasPrefix(out.String(), "usage: ") {
			t.Errorf("%s: exit status %d, %q, %q", args, code, out.String(), said.String())
		}
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("--descr|UML|--port2|5|--mod2|0700|seqpacket://17|slirp://")
	f.Add("-vDx|-m|0799|--|-h|seqpacket://-1")
	f.Add("--port=1|--descr=|seqpacket://3|seqpacket://4|x")
	f.Add("-dLp|pid|a|=|ssh|-p|22|--|=")
	f.Add("--da|-c|vde_plug|--|=|-d|=")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parsePlugOptions("vde_plug", strings.Split(text, "|"), &bytes.Buffer{})
		if (o == nil) == (err == nil) {
			t.Fatalf("%q: %v and %v", text, o, err)
		}
		var usage usageError
		if err != nil {
			if !errors.Is(err, pflag.ErrHelp) && !errors.As(err, &usage) && !errors.Is(err, errNoShell) {
				t.Errorf("%q: %v is no usage error", text, err)
			}
			return
		}
		again := []string{
			"--descr=" + o.descr, "--pidfile=" + o.pidfile, fmt.Sprintf("--verbose=%v", o.verbose), fmt.Sprintf("--daemon=%v", o.daemon),
			fmt.Sprintf("--log=%v", o.log), fmt.Sprintf("--iplog=%v", o.ipLog),
		}
		if o.login {
			again = append(again, "-cvde_plug")
		}
		for i, suffix := range []string{"", "2"} {
			e := o.ends[i]
			again = append(again, fmt.Sprintf("--port%s=%d", suffix, e.port), "--group"+suffix+"="+e.group, fmt.Sprintf("--mod%s=%s", suffix, &e.mode))
		}
		again = append(append(again, "--"), o.vnls...)
		if o.command != nil {
			again = append(append(again, "="), o.command...)
		}
		if p, err := parsePlugOptions("vde_plug", again, &bytes.Buffer{}); err != nil || !reflect.DeepEqual(o, p) {
			t.Errorf("%q is %+v, and once more %+v %v", text, o, p, err)
		}
	})
}
