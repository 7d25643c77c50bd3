/* A library in the place of libvdeplug, for where the real one cannot be: the
 * plugins that it loads with RTLD_DEEPBIND are refused by AddressSanitizer. All
 * VNLs are one network, which sends each frame back. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

unsigned long __vde_version_tag = 4;

struct conn {
	int fds[2];
};

void *vde_open_real(char *vnl, char *descr, int version, void *args)
{
	struct conn *c = calloc(1, sizeof(*c));

	(void) args;
	if (version != 1 || strlen(vnl) + strlen(descr) > 100000)
		errno = EINVAL;
	else if (c && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, c->fds) == 0)
		return c;
	free(c);
	return NULL;
}

ssize_t vde_recv(struct conn *c, void *buf, size_t len, int flags)
{
	return recv(c->fds[0], buf, len, flags);
}

ssize_t vde_send(struct conn *c, const void *buf, size_t len, int flags)
{
	return send(c->fds[1], buf, len, flags | MSG_DONTWAIT);
}

int vde_datafd(struct conn *c)
{
	return c->fds[0];
}

int vde_ctlfd(struct conn *c)
{
	(void) c;
	return -1;
}

int vde_close(struct conn *c)
{
	close(c->fds[0]);
	close(c->fds[1]);
	free(c);
	return 0;
}

/* A stream that knows only whole frames: each begins where the one before ended. */
struct stream {
	void *opaque;
	int fdout;
	ssize_t (*frecv)(void *opaque, void *buf, size_t count);
	void (*ferr)(void *opaque, int type, char *format, ...);
};

struct stream *vdestream_open(void *opaque, int fdout,
	ssize_t (*frecv)(void *opaque, void *buf, size_t count),
	void (*ferr)(void *opaque, int type, char *format, ...))
{
	struct stream *s = calloc(1, sizeof(*s));

	if (s)
		*s = (struct stream) {opaque, fdout, frecv, ferr};
	return s;
}

ssize_t vdestream_send(struct stream *s, const void *buf, size_t len)
{
	unsigned char head[2] = {len >> 8, len};
	struct iovec v[2] = {{head, 2}, {(void *) buf, len}};

	return writev(s->fdout, v, 2);
}

void vdestream_recv(struct stream *s, unsigned char *buf, size_t len)
{
	while (len > 1) {
		size_t n = buf[0] << 8 | buf[1];

		if (n > len - 2) {
			s->ferr(s->opaque, 1, "size %d expected size %d", (int) len, (int) n);
			return;
		}
		s->frecv(s->opaque, buf + 2, n);
		buf += 2 + n;
		len -= 2 + n;
	}
}

void vdestream_close(struct stream *s)
{
	free(s);
}
