//go:build linux

package libvdeplug

import (
	"path/filepath"

	"github.com/umlvde/umlvde/internal/plug"
)

// Available reports why the C library cannot be used, or nil. An error for
// which errors.Is(err, [fs.ErrNotExist]) is true says that it is not installed.
func Available() error {
	_, err := plug.Load("")
	return loadError(err)
}

// Version tells which file the C library was loaded from. It fails as
// [Available] does.
func Version() (Info, error) {
	lib, err := plug.Load("")
	if err != nil {
		return Info{}, loadError(err)
	}
	info := Info{Path: lib.Path(), File: lib.Path()}
	if file, err := filepath.EvalSymlinks(info.Path); err == nil {
		info.File = file
	}
	return info, nil
}

// Plugins lists the plugins where the C library would look for them
// ($VDEPLUGIN_PATH if that is set), sorted by name. It fails as [Available] does.
func Plugins() ([]Plugin, error) {
	lib, err := plug.Load("")
	if err != nil {
		return nil, loadError(err)
	}
	var found []Plugin
	for _, p := range plug.Plugins(lib) {
		found = append(found, Plugin(p))
	}
	return found, nil
}
