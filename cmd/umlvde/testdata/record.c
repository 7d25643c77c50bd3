/* libvdeplug_record: a plugin that appends what it is opened with to the file
 * $RECORD, a line each, and whose network has ended at once. */
#include <errno.h>
#include <libvdeplug.h>
#include <libvdeplug_mod.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vde_record_conn {
	void *handle;
	struct vdeplug_module *module;
	int data;
};

static VDECONN *record_open(char *arg, char *descr, int version, struct vde_open_args *args)
{
	struct vde_record_conn *c = calloc(1, sizeof(*c));
	FILE *f = fopen(getenv("RECORD"), "a");
	char *pid = strstr(descr, " user=");
	int p[2];

	if (!c || !f || pipe(p) < 0)
		return NULL;
	if (pid)
		*pid = 0;
	fprintf(f, "%s descr=%s port=%d group=%s mode=%o\n", arg, descr, args->port,
		args->group && *args->group ? args->group : "-", args->mode);
	fclose(f);
	close(p[1]);
	c->data = p[0];
	return (VDECONN *) c;
}

static ssize_t record_recv(VDECONN *conn, void *buf, size_t len, int flags)
{
	errno = EPIPE;
	return -1;
}

static ssize_t record_send(VDECONN *conn, const void *buf, size_t len, int flags)
{
	return len;
}

static int record_datafd(VDECONN *conn)
{
	return ((struct vde_record_conn *) conn)->data;
}

static int record_ctlfd(VDECONN *conn)
{
	return -1;
}

static int record_close(VDECONN *conn)
{
	close(record_datafd(conn));
	free(conn);
	return 0;
}

struct vdeplug_module vdeplug_ops = {
	.vde_open_real = record_open,
	.vde_recv = record_recv,
	.vde_send = record_send,
	.vde_datafd = record_datafd,
	.vde_ctlfd = record_ctlfd,
	.vde_close = record_close,
};
