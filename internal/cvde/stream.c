//go:build cgo

#include "cvde.h"

#include <errno.h>
#include <stdlib.h>

/* Exported by stream.go. */
extern void goStreamFrame(void *opaque, void *buf, size_t len);
extern void goStreamError(void *opaque, int type);

struct cvde_stream {
	const struct cvde_lib *lib;
	VDESTREAM *stream;
};

static ssize_t frame(void *opaque, void *buf, size_t len)
{
	goStreamFrame(opaque, buf, len);
	return len; /* which nobody looks at */
}

/* Variadic, which a Go function cannot be. The format is not used: the library
 * gives it a size_t for %d. */
static void error(void *opaque, int type, char *format, ...)
{
	(void) format;
	goStreamError(opaque, type);
}

struct cvde_stream *cvde_stream_open(const struct cvde_lib *lib, void *opaque, int fdout)
{
	struct cvde_stream *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->lib = lib;
	if ((s->stream = lib->stream_open(opaque, fdout, frame, error)) == NULL) {
		free(s);
		return NULL;
	}
	return s;
}

int cvde_stream_send(struct cvde_stream *s, const void *buf, size_t len)
{
	ssize_t n;

	errno = 0;
	if ((n = s->lib->stream_send(s->stream, buf, len)) < 0)
		return errno > 0 ? -errno : -EIO;
	return n;
}

void cvde_stream_recv(struct cvde_stream *s, void *buf, size_t len)
{
	s->lib->stream_recv(s->stream, buf, len);
}

void cvde_stream_close(struct cvde_stream *s)
{
	s->lib->stream_close(s->stream);
	free(s);
}
