package libvdeplug_test

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"testing"
)

// TestStub compares what the package exports on Linux with what it does
// elsewhere, where nobody may run its tests.
func TestStub(t *testing.T) {
	linux := exported(t, "linux")
	if len(linux) < 40 {
		t.Fatalf("found only %v", linux)
	}
	for _, system := range []string{"darwin", "windows", "freebsd"} {
		if got := exported(t, system); !slices.Equal(got, linux) {
			for _, name := range append(slices.Clone(got), linux...) {
				if slices.Contains(got, name) != slices.Contains(linux, name) {
					t.Errorf("not both on %s and Linux: %s", system, name)
				}
			}
		}
	}
}

// exported lists the declarations that a program for a system sees, without the
// names of parameters.
func exported(t *testing.T, system string) (found []string) {
	t.Helper()
	ctx := build.Default
	ctx.GOOS, ctx.CgoEnabled = system, false
	pkg, err := ctx.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(".", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if !d.Name.IsExported() {
					continue
				}
				name := d.Name.Name + signature(d.Type)
				if d.Recv != nil {
					receiver := types.ExprString(d.Recv.List[0].Type)
					if !ast.IsExported(receiver[1:]) {
						continue
					}
					name = receiver + "." + name
				}
				found = append(found, name)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						found = append(found, s.Name.Name)
					case *ast.ValueSpec:
						found = append(found, s.Names[0].Name)
					}
				}
			}
		}
	}
	found = slices.DeleteFunc(found, func(name string) bool { return name[0] != '*' && !ast.IsExported(name) })
	slices.Sort(found)
	return slices.Compact(found)
}

// signature prints a function's types only.
func signature(f *ast.FuncType) (s string) {
	for _, list := range []*ast.FieldList{f.Params, f.Results} {
		s += "("
		if list != nil {
			for _, field := range list.List {
				for range max(1, len(field.Names)) {
					s += types.ExprString(field.Type) + ","
				}
			}
		}
		s += ")"
	}
	return s
}
