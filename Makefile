# `make demo` and `make test` are all that a newcomer needs: they install and fetch what is missing. Go, make and git
# must be there.

MAKEFLAGS += --no-print-directory

PREFIX   ?= /usr/local
FUZZTIME ?= 30s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Not -buildvcs: $(VERSION) says it, and it fails in a tree that belongs to somebody else.
GOBUILD = CGO_ENABLED=1 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
LINT    = go tool -modfile=$(CURDIR)/ci/tools/go.mod golangci-lint

.PHONY: all build demo test race fuzz check lint fmt deps kernels install install-vde_plug clean fresh image

all: build

build:
	$(GOBUILD) -o bin/umlvde ./cmd/umlvde

# So that root, who may have no Go, can install what was built before, but not an older version of it.
bin/umlvde: go.mod go.sum $(shell find cmd internal libvdeplug -name '*.go' -o -name '*.[ch]')
	$(MAKE) build

demo:
	ci/deps build demo
	$(MAKE) build
	ci/demo

# Everything that CI runs.
test race:
	ci/test

fuzz:
	FUZZTIME=$(FUZZTIME) ci/fuzz

# What can be said about the code without running it.
check:
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt (run make fmt): $$files" >&2; exit 1; }
	ci/modules go mod tidy -diff
	ci/modules go vet ./...
	CGO_ENABLED=0 go vet ./...
	ci/systems
	$(MAKE) lint

lint:
	ci/modules $(LINT) run ./...

fmt:
	ci/modules $(LINT) fmt ./...

deps:
	ci/deps

kernels: deps
	ci/kernels

install: bin/umlvde
	install -D -m 755 bin/umlvde $(DESTDIR)$(PREFIX)/bin/umlvde
	install -D -m 644 docs/umlvde.1 $(DESTDIR)$(PREFIX)/share/man/man1/umlvde.1

# Makes umlvde the vde_plug of PREFIX/bin, which UML and others find first if PREFIX is /usr/local.
install-vde_plug: install
	@link=$(DESTDIR)$(PREFIX)/bin/vde_plug; if [ -e $$link ] && ! [ -L $$link ]; then \
		echo "$$link is another program: move it away first (in Debian: dpkg-divert --local --rename --add $(PREFIX)/bin/vde_plug)" >&2; exit 1; fi
	ln -sf umlvde $(DESTDIR)$(PREFIX)/bin/vde_plug
	ln -sf umlvde.1 $(DESTDIR)$(PREFIX)/share/man/man1/vde_plug.1

clean:
	rm -rf bin

# That `make demo` and `make test` do what they promise on a bare Debian 13 and 12, and the demo in a container image.
fresh:
	ci/fresh

image:
	ci/image

# umlvde against the C vde_plug and a C shuttle: frames by a played guest; TCP between real ones. BENCH='-quick', for instance.
# Root (or sudo) is needed, for network namespaces.
.PHONY: bench bench-uml
bench:
	ci/deps
	$(MAKE) build
	ci/as-root go run ./bench $(BENCH)

bench-uml:
	ci/deps
	ci/kernels
	$(MAKE) build
	ci/as-root go run ./bench -uml $(BENCH)

# Package libvdeplug: against loops in C; for ten minutes, with all plugins; at the border to C (see ci/cgo).
.PHONY: bench-lib soak cgo
bench-lib:
	ci/deps
	go test -run '^$$' -bench AgainstC -benchtime 1x ./libvdeplug

soak:
	ci/deps
	ci/as-root env LIBVDEPLUG_SOAK=$${SOAK:-10m} go test -count=1 -timeout 0 -v -run '^TestSoak$$' ./libvdeplug

cgo:
	ci/deps
	ci/as-root ci/cgo
