package uml

import "strings"

// CleanVNL makes of a VNL that came through a kernel's command line what its
// writer meant. It takes off one pair of quotes around it, which a kernel leaves
// on, and decodes %3D, %2C and %20, which stand for the '=', ',' and ' ' that a
// kernel does not let through (uml_parse_vector_ifspec in
// arch/um/drivers/vector_user.c, next_arg in lib/cmdline.c). Other codes are the
// plugin's.
func CleanVNL(s string) string { return decode(unquote(s)) }

var (
	decoder = strings.NewReplacer("%3D", "=", "%3d", "=", "%2C", ",", "%2c", ",", "%20", " ")
	encoder = strings.NewReplacer("=", "%3D", ",", "%2C", " ", "%20")
)

func decode(s string) string { return decoder.Replace(s) }

func encode(s string) string { return encoder.Replace(s) }

func isQuote(c byte) bool { return c == '"' || c == '\'' }

// unquote takes off one pair of quotes.
func unquote(s string) string {
	if n := len(s); n >= 2 && isQuote(s[0]) && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}
