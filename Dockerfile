# umlvde (also under the name vde_plug, which UML looks for) with the VDE plugins and a UML kernel:
#
#   docker build -t umlvde .  &&  docker run --rm umlvde      (runs the demo)
#
# Guests on a tap need --cap-add NET_ADMIN --device /dev/net/tun as well.

FROM debian:trixie AS build
WORKDIR /src
RUN apt-get -qq update && \
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends golang-go >/dev/null
COPY ci/deps ci/deps
RUN ci/deps build
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make

FROM debian:trixie
COPY ci/deps ci/demo /usr/local/lib/umlvde/
RUN /usr/local/lib/umlvde/deps demo && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/bin/umlvde /usr/local/bin/
RUN ln -s umlvde /usr/local/bin/vde_plug
# UML's memory is a file, and a container's /dev/shm is too small for it and noexec.
ENV UMLVDE=/usr/local/bin/umlvde TMPDIR=/tmp
CMD ["/usr/local/lib/umlvde/demo"]
