package uml

import "strings"

// decoder undoes what a user has to write where UML's own parser takes '=', ','
// and blanks for itself. Other escapes stay: the library's parser knows them.
var decoder = strings.NewReplacer("%3D", "=", "%3d", "=", "%2C", ",", "%2c", ",", "%20", " ")

// CleanVNL makes a VNL of what a kernel's command line could carry: it strips
// one pair of quotes, single or double, around the whole, which UML passes on,
// and decodes %3D, %2C and %20.
func CleanVNL(text string) string {
	if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		text = text[1 : n-1]
	}
	return decoder.Replace(text)
}
