/* A program with the static libvdeplug, which starts the vde_plug in PATH.
 *
 *	static VNL [DESCR [PORT GROUP MODE]]
 *
 * says "open", sends each line of its input as a frame, and prints the frames
 * that come, until "end" of the network or of its input. */
#include <libvdeplug.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char header[] = "\2\0\0\0\0\2\2\0\0\0\0\1\x88\xb5";

int main(int argc, char **argv)
{
	struct vde_open_args args = { .mode = 0700 };
	VDECONN *conn;

	if (argc > 5) {
		args.port = atoi(argv[3]);
		args.group = argv[4];
		args.mode = strtol(argv[5], NULL, 8);
	}
	conn = vde_open(argc > 1 ? argv[1] : NULL, argc > 2 ? argv[2] : NULL, argc > 5 ? &args : NULL);
	if (!conn) {
		perror("vde_open");
		return 1;
	}
	printf("open\n");
	fflush(stdout);
	for (;;) {
		struct pollfd p[] = { { 0, POLLIN }, { vde_datafd(conn), POLLIN } };
		char frame[1600];
		ssize_t n;

		if (poll(p, 2, -1) < 0)
			return 1;
		if (p[1].revents) {
			n = vde_recv(conn, frame, sizeof(frame) - 1, 0);
			if (n <= 0) {
				printf("end of the network\n");
				return 2;
			}
			frame[n] = 0;
			printf("got %s", n > 14 ? frame + 14 : "a short frame\n");
			fflush(stdout);
		}
		if (p[0].revents) {
			memcpy(frame, header, 14);
			if (!fgets(frame + 14, sizeof(frame) - 14, stdin))
				break;
			vde_send(conn, frame, 14 + strlen(frame + 14) + 1, 0);
		}
	}
	vde_close(conn);
	printf("end\n");
	return 0;
}
