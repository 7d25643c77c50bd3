package plug

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/umlvde/umlvde/internal/cvde"
	"golang.org/x/sys/unix"
)

const (
	soname = "libvdeplug.so.2"
	// LibraryEnv names a file to load instead of the soname.
	LibraryEnv = "LIBVDEPLUG"
)

// missingText is what dlerror says of a file that is not there (glibc,
// elf/dl-load.c), as against one of the libraries that the file needs.
const missingText = ": cannot open shared object file: No such file or directory"

var loaded struct {
	sync.Mutex
	libs map[string]*cvde.Library
}

// Load returns the library named by path, else by $LIBVDEPLUG, else the
// host's own. What was loaded stays loaded; what could not be loaded is tried
// again at the next call. An error for which errors.Is(err, fs.ErrNotExist) is
// true says that there is no such library, any other that it cannot be used.
func Load(path string) (*cvde.Library, error) {
	if path == "" {
		path = os.Getenv(LibraryEnv)
	}
	if path == "" {
		path = soname
	}
	loaded.Lock()
	defer loaded.Unlock()
	if lib := loaded.libs[path]; lib != nil {
		return lib, nil
	}
	lib, err := cvde.Load(path)
	switch {
	case err == nil:
	case strings.HasPrefix(err.Error(), path+missingText) && path == soname:
		return nil, fmt.Errorf("%s: the VDE library is not installed (in Debian: apt install %s): %w", path, library4, unix.ENOENT)
	case strings.HasPrefix(err.Error(), path+missingText):
		if _, err := os.Stat(path); err == nil { // the dynamic linker says the same of a file for another machine
			return nil, fmt.Errorf("the VDE library cannot be used: %s: it is not for this machine (%s)", path, runtime.GOARCH)
		}
		return nil, fmt.Errorf("%s: %w", path, unix.ENOENT)
	default:
		return nil, fmt.Errorf("the VDE library cannot be used: %w", err)
	}
	if loaded.libs == nil {
		loaded.libs = make(map[string]*cvde.Library)
	}
	loaded.libs[path] = lib
	return lib, nil
}

// An Installed is a plugin found on the host.
type Installed struct {
	Name string // as in a VNL: "slirp"
	Path string // its file; "" for the ones that this package serves itself
}

// Plugins lists what lib would find, sorted by name, and the built-in ones.
func Plugins(lib *cvde.Library) []Installed {
	found := []Installed{{Name: "cmd"}, {Name: "seqpacket"}}
	for _, dir := range pluginDirs(lib) {
		paths, _ := filepath.Glob(filepath.Join(dir, "libvdeplug_*.so")) // the pattern is good
		for _, p := range paths {
			name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "libvdeplug_"), ".so")
			if name != "mod" && !slices.ContainsFunc(found, func(f Installed) bool { return f.Name == name }) {
				found = append(found, Installed{name, p})
			}
		}
	}
	slices.SortFunc(found, func(a, b Installed) int { return strings.Compare(a.Name, b.Name) })
	return found
}

// pluginDirs is the search path of vde_open_module (libvdeplug.c).
func pluginDirs(lib *cvde.Library) []string {
	if env, ok := os.LookupEnv("VDEPLUGIN_PATH"); ok {
		return filepath.SplitList(env)
	}
	var dirs []string
	if own := filepath.Dir(lib.Path()); own != "." {
		dirs = append(dirs, filepath.Join(own, "vdeplug"), own)
	}
	for _, dir := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		dirs = append(dirs, filepath.Join(dir, "vdeplug"))
	}
	return append(dirs, "/lib/vdeplug", "/usr/lib/vdeplug")
}

// whyNoPlugin finds out what vde_open hides: it answers EPROTONOSUPPORT both to
// a plugin that is missing and to one that does not load.
func whyNoPlugin(lib *cvde.Library, name string) error {
	file := "libvdeplug_" + name + ".so"
	for _, dir := range pluginDirs(lib) {
		path := filepath.Join(dir, file)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := cvde.Probe(path); err != nil {
			return &PluginError{Plugin: name, File: path, Why: err.Error()}
		}
		return &PluginError{Plugin: name, File: path, Why: "it is not a plugin for this version of the library"}
	}
	return &PluginError{Plugin: name, File: file, Package: DebianPackage(name), Missing: true}
}

// A PluginError says that the plugin that a VNL names is missing, if
// errors.Is(err, fs.ErrNotExist), or cannot be loaded. It is also
// EPROTONOSUPPORT, the library's own answer.
type PluginError struct {
	Plugin  string // its name in the VNL
	File    string // the file that was missing or not loadable
	Package string // Debian's package that has it, if known
	Missing bool   // there is no such file
	Why     string // dlerror's text, if there is one
}

func (e *PluginError) Error() string {
	switch {
	case !e.Missing:
		return fmt.Sprintf("the plugin %q cannot be used: %s", e.Plugin, e.Why)
	case e.Package != "":
		return fmt.Sprintf("no plugin %q (in Debian: apt install %s): %s: %v", e.Plugin, e.Package, e.File, unix.ENOENT)
	}
	return fmt.Sprintf("no plugin %q: %s: %v", e.Plugin, e.File, unix.ENOENT)
}

// Is makes the error equal to the errnos that it stands for.
func (e *PluginError) Is(target error) bool {
	return target == unix.EPROTONOSUPPORT || e.Missing && unix.ENOENT.Is(target)
}
