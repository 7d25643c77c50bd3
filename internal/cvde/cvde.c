//go:build cgo

#define _GNU_SOURCE
#include "cvde.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cvde_conn {
	const struct cvde_lib *lib;
	VDECONN *conn;
	int datafd, ctlfd;
	int prime;
	uint16_t tpid; /* of cvde_peek; 0: not called */
	int later; /* a result that came after frames of the same batch */
};

/* dlopen, dlsym and dlerror happen in one C function: dlerror is a thread's own,
 * and Go may change threads between two calls. */
struct cvde_lib *cvde_load(const char *name, char *why, size_t size)
{
	struct link_map *map;
	struct cvde_lib *lib = NULL;
	/* RTLD_GLOBAL: the vlan and agno plugins use the library's symbols without naming it. */
	void *handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL);

	if (handle == NULL)
		goto err;
	if (dlsym(handle, "__vde_version_tag") == NULL) {
		if (dlsym(handle, "vde_open_real") != NULL)
			snprintf(why, size, "%s: it is the library of the old vde2, not of vdeplug4", name);
		else
			snprintf(why, size, "%s: undefined symbol: vde_open_real", name);
		goto close;
	}
	if ((lib = calloc(1, sizeof(*lib))) == NULL) {
		snprintf(why, size, "%s: out of memory", name);
		goto close;
	}
	if (!(lib->open = dlsym(handle, "vde_open_real")) ||
			!(lib->recv = dlsym(handle, "vde_recv")) ||
			!(lib->send = dlsym(handle, "vde_send")) ||
			!(lib->datafd = dlsym(handle, "vde_datafd")) ||
			!(lib->ctlfd = dlsym(handle, "vde_ctlfd")) ||
			!(lib->close = dlsym(handle, "vde_close")) ||
			!(lib->stream_open = dlsym(handle, "vdestream_open")) ||
			!(lib->stream_send = dlsym(handle, "vdestream_send")) ||
			!(lib->stream_recv = dlsym(handle, "vdestream_recv")) ||
			!(lib->stream_close = dlsym(handle, "vdestream_close")))
		goto err;
	if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0)
		lib->path = map->l_name;
	return lib;
err:
	snprintf(why, size, "%s", dlerror());
close:
	free(lib);
	if (handle != NULL)
		dlclose(handle);
	return NULL;
}

const char *cvde_path(const struct cvde_lib *lib)
{
	return lib->path;
}

int cvde_probe(const char *path, char *why, size_t size)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (handle == NULL) {
		snprintf(why, size, "%s", dlerror());
		return -1;
	}
	dlclose(handle);
	return 0;
}

int cvde_open(const struct cvde_lib *lib, const char *vnl, const char *descr,
	struct cvde_open_args *args, struct cvde_conn **out)
{
	struct cvde_conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return -ENOMEM;
	errno = 0;
	c->conn = lib->open((char *) vnl, (char *) descr, CVDE_INTERFACE_VERSION, args);
	if (c->conn == NULL) {
		int e = errno;
		free(c);
		return e > 0 ? -e : CVDE_UNSPEC;
	}
	c->lib = lib;
	c->datafd = lib->datafd(c->conn);
	c->ctlfd = lib->ctlfd(c->conn);
	*out = c;
	return 0;
}

int cvde_datafd(const struct cvde_conn *c)
{
	return c->datafd;
}

int cvde_ctlfd(const struct cvde_conn *c)
{
	return c->ctlfd;
}

void cvde_peek(struct cvde_conn *c, uint16_t tpid)
{
	c->tpid = tpid;
}

void cvde_prime(struct cvde_conn *c)
{
	c->prime = 1;
}

/* Leaves the number AF_INET6 all over the stack that the next call will use: vxlan
 * takes the length of an address from a struct that it has not set. sockaddr_in
 * has room there, too. */
__attribute__((noinline)) static void prime(void)
{
	volatile unsigned short stack[512];

	for (unsigned i = 0; i < sizeof(stack) / sizeof(*stack); i++)
		stack[i] = AF_INET6;
}

/* How long a frame vde_recv is asked for. Not more than VDE_ETHBUFSIZE: pcap would
 * read beyond what it captured. */
static size_t room(const struct cvde_conn *c)
{
	unsigned char head[14];
	ssize_t len;

	if (c->tpid == 0)
		return CVDE_ETHBUFSIZE;
	len = recv(c->datafd, head, sizeof(head), MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (len < (ssize_t) sizeof(head) || len > CVDE_ETHBUFSIZE)
		return CVDE_ETHBUFSIZE;
	/* A frame that has a tag cannot become longer, another one may get a tag. */
	return (head[12] << 8 | head[13]) == c->tpid ? len : len + 4;
}

static int ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 0) == 1;
}

int cvde_recv(struct cvde_conn *c, struct mmsghdr *v, int n, int poll)
{
	/* A result of 1 means "nothing for you"; a hub that forwards for others gives
	 * one a frame, a broken plugin gives them for ever. */
	int skips = 64, got = 0, r = c->later;

	c->later = 0;
	if (r != 0)
		return r;
	while (got < n && skips > 0) {
		ssize_t len;

		if (poll && !ready(c->datafd, POLLIN))
			break;
		if (c->prime)
			prime();
		/* The buffer is larger: agno may write 14 bytes more than it was allowed. */
		len = c->lib->recv(c->conn, v[got].msg_hdr.msg_iov->iov_base, room(c), 0);
		if (len > 1) {
			v[got++].msg_len = len;
		} else if (len == 1) {
			skips--;
		} else {
			r = len == 0 ? CVDE_EOF : errno > 0 ? -errno : -EIO;
			if (r == -EAGAIN || r == -EINTR)
				break;
			if (got == 0)
				return r;
			c->later = r;
			break;
		}
	}
	return got;
}

int cvde_send(struct cvde_conn *c, const struct mmsghdr *v, int n, int poll)
{
	int i;

	for (i = 0; i < n; i++) {
		const struct iovec *iov = v[i].msg_hdr.msg_iov;
		int r = 0;

		if (poll && !ready(c->datafd, POLLOUT))
			r = -EAGAIN;
		else if (c->lib->send(c->conn, iov->iov_base, iov->iov_len, 0) < 0)
			r = errno > 0 ? -errno : -EIO;
		if (r < 0)
			return i > 0 ? i : r;
	}
	return n;
}

int cvde_close(struct cvde_conn *c)
{
	int r;

	errno = 0;
	r = c->lib->close(c->conn);
	if (r < 0)
		r = errno > 0 ? -errno : -EIO;
	free(c);
	return r;
}
