/* The C loop that BenchmarkAgainstC compares with: loop FRAME BATCH CALLS
 *
 * For each number on standard input it sends BATCH frames of FRAME bytes and
 * receives them, that many times, and prints the nanoseconds that sending and
 * receiving took. CALLS is mmsg (sendmmsg and recvmmsg of a batch) or one (send
 * and recv of a frame), on a SEQPACKET socketpair, or vde (poll and vde_recv,
 * vde_send) on echo://. */
#define _GNU_SOURCE
#include <libvdeplug.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MAX 64

static unsigned char frames[MAX][2048], buffers[MAX][VDE_ETHBUFSIZE + 64];
static struct mmsghdr out[MAX], in[MAX];
static struct iovec outv[MAX], inv[MAX];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int size, batch, sv[2], i, n;
	const char *calls;
	VDECONN *a = NULL;
	long times;

	if (argc != 4)
		return 2;
	size = atoi(argv[1]), batch = atoi(argv[2]), calls = argv[3];
	if (strcmp(calls, "vde") == 0) {
		if (!(a = vde_open("echo://", "loop", NULL)))
			die("vde_open");
	} else if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv) < 0) {
		die("socketpair");
	}
	for (i = 0; i < MAX; i++) {
		memcpy(frames[i], "\2\0\0\0\0\2\2\0\0\0\0\1\x88\xb5", 14);
		outv[i] = (struct iovec) {frames[i], size};
		inv[i] = (struct iovec) {buffers[i], sizeof(buffers[i])};
		out[i].msg_hdr.msg_iov = &outv[i];
		in[i].msg_hdr.msg_iov = &inv[i];
		out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
	}
	while (scanf("%ld", &times) == 1) {
		long long sending = 0, receiving = 0, start, mid;

		for (; times > 0; times--) {
			start = now();
			if (strcmp(calls, "mmsg") == 0) {
				if (sendmmsg(sv[0], out, batch, MSG_DONTWAIT | MSG_NOSIGNAL) != batch)
					die("sendmmsg");
			} else for (i = 0; i < batch; i++) {
				if ((a ? vde_send(a, frames[i], size, 0) : send(sv[0], frames[i], size, MSG_DONTWAIT | MSG_NOSIGNAL)) != size)
					die("send");
			}
			mid = now();
			sending += mid - start;
			for (n = 0; n < batch;) {
				if (strcmp(calls, "mmsg") == 0) {
					if ((i = recvmmsg(sv[1], in, batch, MSG_DONTWAIT | MSG_TRUNC, NULL)) <= 0)
						die("recvmmsg");
					n += i;
				} else if (a) {
					struct pollfd p = {.fd = vde_datafd(a), .events = POLLIN};

					if (poll(&p, 1, 0) == 1 && vde_recv(a, buffers[n], VDE_ETHBUFSIZE, 0) == size)
						n++;
				} else if (recv(sv[1], buffers[n], sizeof(buffers[n]), MSG_DONTWAIT | MSG_TRUNC) == size) {
					n++;
				} else {
					die("recv");
				}
			}
			receiving += now() - mid;
		}
		printf("%lld %lld\n", sending, receiving);
		fflush(stdout);
	}
	return 0;
}
