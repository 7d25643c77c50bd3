/* libvdeplug_full: a plugin without a descriptor that would tell when it has room.
 * full://FILE has none, and says so, as long as FILE is there. */
#include <errno.h>
#include <libvdeplug.h>
#include <libvdeplug_mod.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vde_full_conn {
	void *handle;
	struct vdeplug_module *module;
	char *file;
};

static VDECONN *full_open(char *vnl, char *descr, int version, struct vde_open_args *args)
{
	struct vde_full_conn *c = calloc(1, sizeof(*c));

	(void) descr, (void) version, (void) args;
	if (c && (c->file = strdup(vnl)) != NULL)
		return (VDECONN *) c;
	free(c);
	return NULL;
}

static ssize_t full_recv(VDECONN *conn, void *buf, size_t len, int flags)
{
	(void) conn, (void) buf, (void) len, (void) flags;
	errno = EAGAIN;
	return -1;
}

static ssize_t full_send(VDECONN *conn, const void *buf, size_t len, int flags)
{
	(void) buf, (void) flags;
	if (access(((struct vde_full_conn *) conn)->file, F_OK) != 0)
		return len;
	errno = EAGAIN;
	return -1;
}

static int full_fd(VDECONN *conn)
{
	(void) conn;
	return -1;
}

static int full_close(VDECONN *conn)
{
	free(((struct vde_full_conn *) conn)->file);
	return 0;
}

struct vdeplug_module vdeplug_ops = {
	.vde_open_real = full_open,
	.vde_recv = full_recv,
	.vde_send = full_send,
	.vde_datafd = full_fd,
	.vde_ctlfd = full_fd,
	.vde_close = full_close,
};
