module github.com/umlvde/umlvde/adapters/gopacketio

go 1.24.0

require (
	github.com/gopacket/gopacket v1.6.0
	github.com/umlvde/umlvde v0.1.0
)

require (
	github.com/mattn/go-pointer v0.0.1 // indirect
	golang.org/x/sys v0.37.0 // indirect
)

replace github.com/umlvde/umlvde => ../..
