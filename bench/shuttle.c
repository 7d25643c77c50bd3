//go:build ignore

/*
 * shuttle A B: moves frames between two sockets, as simply and as fast as the
 * kernel lets a program that waits in it: a thread a direction, recvmmsg and
 * sendmmsg of up to 64 frames, nothing checked, nothing counted, nobody
 * protected. It is the practical limit that package main compares umlvde with.
 *
 * A and B are seqpacket://FD or, for B, any VNL whose data descriptor is a
 * socket of bare frames (vde://), which libvdeplug opens.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <libvdeplug.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, FRAME = 9216 };

struct way {
	int from, to;
	struct mmsghdr msgs[BATCH];
	struct iovec iovs[BATCH];
	char frames[BATCH][FRAME + 64];
};

static void *carry(void *arg)
{
	struct way *w = arg;

	for (int i = 0; i < BATCH; i++) {
		w->iovs[i].iov_base = w->frames[i];
		w->msgs[i].msg_hdr.msg_iov = &w->iovs[i];
		w->msgs[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		for (int i = 0; i < BATCH; i++)
			w->iovs[i].iov_len = FRAME;
		int n = recvmmsg(w->from, w->msgs, BATCH, MSG_WAITFORONE, NULL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || w->msgs[n - 1].msg_len == 0)
			exit(0);
		for (int i = 0; i < n; i++)
			w->iovs[i].iov_len = w->msgs[i].msg_len;
		for (int sent = 0; sent < n;) {
			int r = sendmmsg(w->to, w->msgs + sent, n - sent, MSG_NOSIGNAL);
			if (r < 0 && errno == EINTR)
				continue;
			if (r < 0 && errno == ENOBUFS)
				r = 1; /* dropped */
			if (r < 0)
				exit(0);
			sent += r;
		}
	}
}

static int descriptor(const char *vnl)
{
	const char *scheme = "seqpacket://";

	if (strncmp(vnl, scheme, strlen(scheme)) == 0)
		return atoi(vnl + strlen(scheme));
	VDECONN *conn = vde_open((char *)vnl, "shuttle", NULL);
	if (conn == NULL)
		err(1, "%s", vnl);
	return vde_datafd(conn);
}

int main(int argc, char **argv)
{
	static struct way up, down;
	pthread_t thread;

	if (argc != 3)
		errx(2, "usage: shuttle seqpacket://FD VNL");
	up.from = down.to = descriptor(argv[1]);
	up.to = down.from = descriptor(argv[2]);
	errno = pthread_create(&thread, NULL, carry, &down);
	if (errno != 0)
		err(1, "pthread_create");
	carry(&up);
}
