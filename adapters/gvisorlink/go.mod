module github.com/umlvde/umlvde/adapters/gvisorlink

go 1.24.0

require (
	github.com/umlvde/umlvde v0.1.0
	gvisor.dev/gvisor v0.0.0-20250503011706-39ed1f5ac29c
)

require (
	github.com/google/btree v1.1.2 // indirect
	github.com/mattn/go-pointer v0.0.1 // indirect
	golang.org/x/sys v0.40.0 // indirect
	golang.org/x/time v0.7.0 // indirect
)

replace github.com/umlvde/umlvde => ../..
