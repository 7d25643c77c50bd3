/* The C side of package cvde: libvdeplug4 found with dlopen, and loops that
 * move a batch of frames with one call from Go. No policy is in here.
 *
 * Functions return a result >= 0, or -errno. */
#ifndef CVDE_H
#define CVDE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* libvdeplug.h, repeated so that the package builds where it is not installed;
 * cgo_test.go compares both. */
#define CVDE_INTERFACE_VERSION 1
#define CVDE_ETHBUFSIZE 9234
struct cvde_open_args {
	int port;
	char *group;
	mode_t mode;
};

struct cvde_lib;  /* a loaded library; never unloaded */
struct cvde_conn; /* one open plug */
struct mmsghdr;

/* The functions of libvdeplug.h. */
typedef struct vdeconn VDECONN;
typedef struct vdestream VDESTREAM;

struct cvde_lib {
	const char *path;
	VDECONN *(*open)(char *vnl, char *descr, int version, struct cvde_open_args *args);
	ssize_t (*recv)(VDECONN *conn, void *buf, size_t len, int flags);
	ssize_t (*send)(VDECONN *conn, const void *buf, size_t len, int flags);
	int (*datafd)(VDECONN *conn);
	int (*ctlfd)(VDECONN *conn);
	int (*close)(VDECONN *conn);
	VDESTREAM *(*stream_open)(void *opaque, int fdout,
		ssize_t (*frecv)(void *opaque, void *buf, size_t count),
		void (*ferr)(void *opaque, int type, char *format, ...));
	ssize_t (*stream_send)(VDESTREAM *stream, const void *buf, size_t len);
	void (*stream_recv)(VDESTREAM *stream, unsigned char *buf, size_t len);
	void (*stream_close)(VDESTREAM *stream);
};

/* cvde_load returns NULL on failure, with dlerror's text in why. */
struct cvde_lib *cvde_load(const char *name, char *why, size_t size);
const char *cvde_path(const struct cvde_lib *lib);

/* cvde_probe dlopens one plugin as libvdeplug would, and unloads it: 0, or -1
 * with dlerror's text in why. */
int cvde_probe(const char *path, char *why, size_t size);

/* cvde_open: 0, -errno, or CVDE_UNSPEC if the plugin gave no errno. */
#define CVDE_UNSPEC (-4095)
int cvde_open(const struct cvde_lib *lib, const char *vnl, const char *descr,
	struct cvde_open_args *args, struct cvde_conn **conn);
int cvde_datafd(const struct cvde_conn *c);
int cvde_ctlfd(const struct cvde_conn *c);

/* cvde_peek is for a plugin that returns the length of the buffer for that of
 * a frame with a VLAN tag of this type, and may give others a tag: from now on the
 * buffer is just as long as such a frame, and 4 bytes longer than another one. The
 * length is looked up in datafd, if that is a socket of bare frames. */
void cvde_peek(struct cvde_conn *c, uint16_t tpid);

/* cvde_prime is for a plugin that takes an address family from a struct on its
 * stack before it has set it: cvde_recv sees to it that there is a good one. */
void cvde_prime(struct cvde_conn *c);

/* cvde_recv stores up to n frames that are ready in v: the count, 0 if none is,
 * -errno, or CVDE_EOF if vde_recv returned 0. With poll it calls vde_recv only
 * when datafd is readable (some plugins wait for ever, whatever its flags). */
#define CVDE_EOF (-4094)
int cvde_recv(struct cvde_conn *c, struct mmsghdr *v, int n, int poll);

/* cvde_send hands over up to n frames of v: how many the plugin took, or
 * -errno about the first. With poll it stops when datafd is not writable. */
int cvde_send(struct cvde_conn *c, const struct mmsghdr *v, int n, int poll);

/* cvde_close frees c, whatever vde_close returns. */
int cvde_close(struct cvde_conn *c);

/* A vdestream, which calls goStreamFrame and goStreamError with opaque. NULL
 * and errno on failure. */
struct cvde_stream;
struct cvde_stream *cvde_stream_open(const struct cvde_lib *lib, void *opaque, int fdout);
int cvde_stream_send(struct cvde_stream *s, const void *buf, size_t len);
void cvde_stream_recv(struct cvde_stream *s, void *buf, size_t len);
void cvde_stream_close(struct cvde_stream *s);

#endif
