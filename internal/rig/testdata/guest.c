/* What guests do in the tests:
 *
 *	guest flood IFACE        sends frames as fast as it can, for ever
 *	guest spin N             counts to N million, and says so
 *	guest burst IFACE N SIZE sends N frames of SIZE bytes
 */
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void blast(const char *iface, long n, size_t size)
{
	char frame[65536] = {0};
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(iface)};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(0x88b5));

	if (fd < 0 || to.sll_ifindex == 0) {
		perror(iface);
		exit(1);
	}
	memcpy(frame, "\2\0\0\0\0\2\2\0\0\0\0\1\x88\xb5", 14);
	for (long i = 0; n < 0 || i < n; i++)
		sendto(fd, frame, size, 0, (struct sockaddr *) &to, sizeof(to)); /* a full queue drops */
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "flood") == 0) {
		blast(argv[2], -1, 60);
	} else if (argc == 5 && strcmp(argv[1], "burst") == 0) {
		blast(argv[2], atol(argv[3]), atol(argv[4]));
	} else if (argc == 3 && strcmp(argv[1], "spin") == 0) {
		for (volatile long i = atol(argv[2]) * 1000000; i > 0; i--)
			;
	} else {
		return 2;
	}
	return 0;
}
