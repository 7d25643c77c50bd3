module github.com/umlvde/umlvde

go 1.24.0

require (
	github.com/mattn/go-pointer v0.0.1
	github.com/spf13/pflag v1.0.10
	golang.org/x/sys v0.37.0
)
