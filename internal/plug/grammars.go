package plug

import (
	"fmt"
	"io"
	"net"
	"strings"
)

var port = between(1, 65535)

var vdeGrammar = &grammar{
	form: "vde://DIRECTORY or vde://DIRECTORY[PORT], with port=, portgroup=, group= and mode=",
	mark: '[', base: switchPath,
	params: params{{"", nil}, {"port", nil}, {"portgroup", nil}, {"group", group}, {"mode", octal}},
}

var hubGrammar = &grammar{
	form: "hub://DIRECTORY or hub://DIRECTORY[mode=0700/dirmode=/grp=/hashsize=/hashseed=/expiretime=]",
	mark: '[', base: longest(len("/ctl")),
	params: params{
		{"mode", octal},
		{"dirmode", octal},
		{"grp", group},
		{"hashsize", between(2, 1<<20)},
		{"hashseed", between(0, 1<<31-1)},
		{"expiretime", between(1, 1<<31-1)},
	},
}

// vx are the parameters that vxlan and vxvde have in common.
var vx = params{
	{"port", port},
	{"vni", between(0, 1<<24-1)},
	{"ttl", between(1, 255)},
	{"rcvbuf", size},
	{"v6", nil},
	{"v4", nil},
	{"hashsize", between(2, 1<<20)},
	{"expiretime", between(1, 1<<31-1)},
	{"if", netif},
}

var vxlanGrammar = &grammar{
	form: "vxlan://[GROUP][/port=4789/vni=1/ttl=1/if=NAME/rcvbuf=/hashsize=/expiretime=/v4/v6]",
	mark: '/', base: multicast, params: vx,
}

var vxvdeGrammar = &grammar{
	form: "vxvde://[GROUP][/port=14789/vni=1/grp=1/ttl=1/if=NAME/bind=/rcvbuf=/hashsize=/expiretime=/v4/v6]",
	mark: '/', base: multicast, params: append(params{{"grp", nil}, {"bind", nil}}, vx...),
}

var slirpGrammar = &grammar{
	form: "slirp:///host=10.0.2.2/tcpfwd=PORT:GUEST:PORT,.../mtu=1500, see libvdeplug_slirp(1)",
	mark: '/',
	params: params{
		{"restricted", nil},
		{"v4", nil},
		{"v6", nil},
		{"host", ipv4},
		{"addr", ipv4},
		{"host6", ipv6},
		{"addr6", ipv6},
		{"hostname", nil},
		{"tftp_server_name", nil},
		{"tftp_path", nil},
		{"bootfile", nil},
		{"dhcp", ipv4},
		{"vnameserver", ipv4},
		{"vnameserver6", ipv6},
		{"vdnssearch", nil},
		{"vdomainname", nil},
		{"mtu", between(68, 65521)},
		{"mru", between(68, 65521)},
		{"disable_host_loopback", nil},
		{"tcpfwd", forwards},
		{"udpfwd", forwards},
		{"unixfwd", nil},
		{"cmdfwd", nil},
		{"verbose", nil},
	},
}

// forwardable says which port slirp will not be able to forward.
func forwardable(v VNL) error {
	_, elems := elements(v.Arg, slirpGrammar.mark)
	for _, e := range elems {
		name, list, _ := strings.Cut(e, "=")
		p, _ := slirpGrammar.params.find(name)
		if p.name != "tcpfwd" && p.name != "udpfwd" {
			continue
		}
		for _, item := range strings.Split(list, ",") {
			f := strings.Split(item, ":")
			host, port := "0.0.0.0", f[0]
			if len(f) == 4 {
				host, port = f[0], f[1]
			}
			if err := listen(p.name[:3], net.JoinHostPort(host, port)); err != nil {
				return fmt.Errorf("port %s cannot be forwarded: %w", port, err)
			}
		}
	}
	return nil
}

// listen sees whether one can listen at an address.
func listen(network, address string) error {
	var c io.Closer
	var err error
	if network == "udp" {
		c, err = net.ListenPacket(network+"4", address)
	} else {
		c, err = net.Listen(network+"4", address)
	}
	if err != nil {
		return err
	}
	return c.Close()
}

var vlanGrammar = &grammar{
	form: "vlan://[UNTAGGED][/u=TAG/t=TAG.TAG-TAG/x/q]{VNL}",
	mark: '/', base: untagged,
	params: params{
		{"u", vlanID}, {"untag", vlanID}, {"t", tags}, {"tag", tags}, {"x", nil}, {"trunk", nil}, {"q", nil}, {"qinq", nil}, {"ad", nil},
	},
}

var (
	agnoGrammar = &grammar{
		form: "agno://[/KEYFILE][[ethtype=copy]]{VNL}",
		mark: '[', base: keyFile, params: params{{"ethtype", ethtype}},
	}
	vdeslGrammar = &grammar{
		form: "vdesl:///dev/DEVICE or vdesl:///dev/DEVICE[speed=38400]",
		mark: '[', base: notEmpty, params: params{{"speed", speed}},
	}
	udpGrammar  = &grammar{form: "udp://[HOST:]PORT->HOST:PORT", base: cable}
	ptpGrammar  = &grammar{form: "ptp://PATH", base: longest(len("+"))}
	tapGrammar  = &grammar{form: "tap://NAME", base: tapName}
	pcapGrammar = &grammar{form: "pcap://NAME", base: notEmpty}
)
