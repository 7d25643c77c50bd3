/* libvdeplug_fault: a plugin that misbehaves on request. The network
 * fault://DIR sends each frame back to where it came from; a file named
 * CALL-FAULT in DIR (say, send-block) makes that call go wrong from then on:
 *
 *	open, send, recv, close   -block  never returns
 *	                          -crash  follows a null pointer
 *	open, send, recv          -fail   -1 and EPROTO
 *	recv                      -lie    claims a frame of 1000000 bytes
 *	                          -empty  has nothing, though datafd is readable
 */
#include <errno.h>
#include <fcntl.h>
#include <libvdeplug.h>
#include <libvdeplug_mod.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct vde_fault_conn {
	void *handle;
	struct vdeplug_module *module;
	int data, far;
	char dir[200];
};

static int asked(const char *dir, const char *what)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, what);
	return access(path, F_OK) == 0;
}

/* 1 if the call has to fail. */
static int fault(const char *dir, const char *call)
{
	char what[32];

	snprintf(what, sizeof(what), "%s-block", call);
	while (asked(dir, what)) {
		for (;;)
			pause();
	}
	snprintf(what, sizeof(what), "%s-crash", call);
	if (asked(dir, what))
		*(volatile int *) 0 = 0;
	snprintf(what, sizeof(what), "%s-fail", call);
	if (!asked(dir, what))
		return 0;
	errno = EPROTO;
	return 1;
}

static VDECONN *fault_open(char *dir, char *descr, int version, struct vde_open_args *args)
{
	struct vde_fault_conn *c;
	int sv[2];

	(void) descr, (void) version, (void) args;
	if (fault(dir, "open"))
		return NULL;
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv) < 0)
		return NULL;
	c = calloc(1, sizeof(*c));
	c->data = sv[0];
	c->far = sv[1];
	snprintf(c->dir, sizeof(c->dir), "%s", dir);
	return (VDECONN *) c;
}

static ssize_t fault_recv(VDECONN *conn, void *buf, size_t len, int flags)
{
	struct vde_fault_conn *c = (void *) conn;

	(void) flags;
	if (fault(c->dir, "recv"))
		return -1;
	if (asked(c->dir, "recv-lie"))
		return recv(c->data, buf, len, 0), 1000000;
	if (asked(c->dir, "recv-empty"))
		return 1;
	return recv(c->data, buf, len, 0);
}

static ssize_t fault_send(VDECONN *conn, const void *buf, size_t len, int flags)
{
	struct vde_fault_conn *c = (void *) conn;

	(void) flags;
	if (fault(c->dir, "send"))
		return -1;
	/* Like a switch, it has no room for ever. */
	if (send(c->far, buf, len, MSG_DONTWAIT) < 0 && errno != EAGAIN)
		return -1;
	return len;
}

static int fault_datafd(VDECONN *conn)
{
	return ((struct vde_fault_conn *) conn)->data;
}

static int fault_ctlfd(VDECONN *conn)
{
	(void) conn;
	return -1;
}

static int fault_close(VDECONN *conn)
{
	struct vde_fault_conn *c = (void *) conn;

	fault(c->dir, "close");
	close(c->data);
	close(c->far);
	free(c);
	return 0;
}

struct vdeplug_module vdeplug_ops = {
	.vde_open_real = fault_open,
	.vde_recv = fault_recv,
	.vde_send = fault_send,
	.vde_datafd = fault_datafd,
	.vde_ctlfd = fault_ctlfd,
	.vde_close = fault_close,
};
