module github.com/umlvde/umlvde/examples

go 1.24.0

require (
	github.com/containers/gvisor-tap-vsock v0.8.8
	github.com/gopacket/gopacket v1.6.0
	github.com/insomniacslk/dhcp v0.0.0-20251020182700-175e84fbb167
	github.com/umlvde/umlvde v0.1.0
	github.com/umlvde/umlvde/adapters/gopacketio v0.1.0
	github.com/umlvde/umlvde/adapters/gvisorlink v0.1.0
	gvisor.dev/gvisor v0.0.0-20250503011706-39ed1f5ac29c
)

require (
	github.com/Microsoft/go-winio v0.6.2 // indirect
	github.com/apparentlymart/go-cidr v1.1.0 // indirect
	github.com/google/btree v1.1.2 // indirect
	github.com/google/gopacket v1.1.19 // indirect
	github.com/inetaf/tcpproxy v0.0.0-20250222171855-c4b9df066048 // indirect
	github.com/mattn/go-pointer v0.0.1 // indirect
	github.com/miekg/dns v1.1.72 // indirect
	github.com/pierrec/lz4/v4 v4.1.14 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	github.com/u-root/uio v0.0.0-20240224005618-d2acac8f3701 // indirect
	golang.org/x/crypto v0.47.0 // indirect
	golang.org/x/mod v0.32.0 // indirect
	golang.org/x/net v0.49.0 // indirect
	golang.org/x/sync v0.19.0 // indirect
	golang.org/x/sys v0.40.0 // indirect
	golang.org/x/time v0.7.0 // indirect
	golang.org/x/tools v0.41.0 // indirect
)

replace (
	github.com/umlvde/umlvde => ..
	github.com/umlvde/umlvde/adapters/gopacketio => ../adapters/gopacketio
	github.com/umlvde/umlvde/adapters/gvisorlink => ../adapters/gvisorlink
)
