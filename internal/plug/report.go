package plug

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// A Report is an error of this package in a form that can be sent to another
// process: what Err makes of it there reads the same, and is the same to
// errors.Is and errors.As, as far as errnos, io.EOF, errors.ErrUnsupported and
// PluginErrors go.
type Report struct {
	Text   string
	Errno  unix.Errno   `json:",omitempty"`
	End    bool         `json:",omitempty"` // io.EOF is in the chain
	Plugin *PluginError `json:",omitempty"`
}

// NewReport describes err.
func NewReport(err error) Report {
	r := Report{Text: err.Error(), End: errors.Is(err, io.EOF)}
	switch {
	case errors.As(err, &r.Plugin), errors.As(err, &r.Errno):
	case errors.Is(err, errors.ErrUnsupported):
		r.Errno = unix.EOPNOTSUPP // which is the same, to errors.Is
	}
	return r
}

// Err makes an error of the report.
func (r Report) Err() error {
	switch {
	case r.Plugin != nil:
		return r.Plugin
	case r.Text == io.EOF.Error():
		return io.EOF
	case r.End:
		return &reported{r.Text, io.EOF}
	case r.Errno != 0:
		return &reported{r.Text, r.Errno}
	}
	return errors.New(r.Text)
}

// reported is an error with the text that it had in another process.
type reported struct {
	text string
	err  error
}

func (e *reported) Error() string { return e.text }
func (e *reported) Unwrap() error { return e.err }
