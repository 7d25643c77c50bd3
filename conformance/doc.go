// Package conformance is a test of every VNL that VDE users are taught: one row
// of a table for each, served by the real program with the real library and
// plugins, with a played guest or a UML kernel at one end and, at the other, the
// C vde_plug, another umlvde, a tap, a router. Frames go both ways, whole and in
// order, and not too slowly; the other end goes and comes back; everything is
// killed and started again; wrong VNLs are answered with a line that helps.
//
// Each trap of the plugins that is known has a test that shows how it is
// defended against. docs/plugs.md is made of the same table:
//
//	go test ./conformance -run TestDocs -update
//
// The tests run as root in a network namespace of their own, and leave nothing:
// no process, socket, interface or file, which is checked at the end.
package conformance
