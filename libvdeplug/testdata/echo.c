/* libvdeplug_echo: the least that a plugin can be. It sends each frame back to
 * where it came from, and is driven the way that is right for any plugin. */
#include <libvdeplug.h>
#include <libvdeplug_mod.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct vde_echo_conn {
	void *handle;
	struct vdeplug_module *module;
	int fds[2];
};

static VDECONN *echo_open(char *vnl, char *descr, int version, struct vde_open_args *args)
{
	struct vde_echo_conn *c = calloc(1, sizeof(*c));

	(void) vnl, (void) descr, (void) version, (void) args;
	if (c && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, c->fds) == 0)
		return (VDECONN *) c;
	free(c);
	return NULL;
}

static ssize_t echo_recv(VDECONN *conn, void *buf, size_t len, int flags)
{
	(void) flags;
	return recv(((struct vde_echo_conn *) conn)->fds[0], buf, len, 0);
}

static ssize_t echo_send(VDECONN *conn, const void *buf, size_t len, int flags)
{
	(void) flags;
	return send(((struct vde_echo_conn *) conn)->fds[1], buf, len, MSG_DONTWAIT);
}

static int echo_datafd(VDECONN *conn)
{
	return ((struct vde_echo_conn *) conn)->fds[0];
}

static int echo_ctlfd(VDECONN *conn)
{
	(void) conn;
	return -1;
}

static int echo_close(VDECONN *conn)
{
	close(((struct vde_echo_conn *) conn)->fds[0]);
	return close(((struct vde_echo_conn *) conn)->fds[1]);
}

struct vdeplug_module vdeplug_ops = {
	.vde_open_real = echo_open,
	.vde_recv = echo_recv,
	.vde_send = echo_send,
	.vde_datafd = echo_datafd,
	.vde_ctlfd = echo_ctlfd,
	.vde_close = echo_close,
};
