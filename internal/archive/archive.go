// Package archive is the format of a backup: a tar archive with the files of a data
// directory under their names there, then a manifest that lists them with their
// checksums, and the manifest's own checksum. Thereby a reader notices any part that
// is cut short or altered.
//
// The package knows no data directory: its callers decide which files belong to a
// backup, and where they go.
package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hpmq/hpmq/node/control"
)

const (
	manifestName    = "manifest.json"
	manifestSumName = "manifest.sha256"
	format          = 1
	maxManifest     = 64 << 20
)

// Manifest says which node a backup is of, and lists its files.
type Manifest struct {
	Format      int       `json:"format"`
	Created     time.Time `json:"created"` // when it began
	Version     string    `json:"version"` // of hpmq
	Node        string    `json:"node"`
	Site        string    `json:"site"`
	TrustDomain string    `json:"trust_domain"`
	CA          bool      `json:"ca"`                   // the node is a certificate authority
	WithoutCA   bool      `json:"without_ca,omitempty"` // its keys were left out
	Files       []File    `json:"files"`
}

// File is one file of a backup.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() (total int64) {
	for _, f := range m.Files {
		total += f.Size
	}
	return total
}

// Writer writes a backup.
type Writer struct {
	tar      *tar.Writer
	manifest Manifest
}

// NewWriter returns a writer to w. m says of which node the backup is; the writer
// adds the format and the files.
func NewWriter(w io.Writer, m Manifest) *Writer {
	m.Format = format
	return &Writer{tar.NewWriter(w), m}
}

// AddTree adds every regular file below dir. A file that grows meanwhile is
// added as long as it was.
func (a *Writer) AddTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return a.addFile(filepath.ToSlash(name), path)
	})
}

func (a *Writer) addFile(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.add(name, info.Mode().Perm(), info.Size(), f)
}

func (a *Writer) add(name string, perm fs.FileMode, size int64, from io.Reader) error {
	h := &tar.Header{Name: name, Mode: int64(perm), Size: size, ModTime: a.manifest.Created, Format: tar.FormatPAX}
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(a.tar, sum), from, size); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.manifest.Files = append(a.manifest.Files, File{name, size, hex.EncodeToString(sum.Sum(nil))})
	return nil
}

// Close ends the archive with its manifest.
func (a *Writer) Close() error {
	text, err := json.Marshal(a.manifest)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	line := hex.EncodeToString(sum[:]) + "\n"
	return errors.Join(
		a.add(manifestName, 0o600, int64(len(text)), bytes.NewReader(text)),
		a.add(manifestSumName, 0o600, int64(len(line)), strings.NewReader(line)),
		a.tar.Close(),
	)
}

// Read reads a backup to its end and checks it. keep, unless nil, gets
// each file as it comes, before it is known whether it is whole.
func Read(r io.Reader, keep func(name string, perm fs.FileMode, body io.Reader) error) (*Manifest, error) {
	in := tar.NewReader(r)
	sums := map[string]File{}
	last := "its beginning"
	var text []byte
	for {
		h, err := in.Next()
		if err != nil {
			return nil, damaged(last, err)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || filepath.Clean(h.Name) != h.Name {
			return nil, fmt.Errorf("this is not a backup: it holds %q, which is no file of a data directory", h.Name)
		}
		last = h.Name
		switch h.Name {
		case manifestName:
			if text, err = io.ReadAll(io.LimitReader(in, maxManifest)); err != nil {
				return nil, damaged(last, err)
			}
		case manifestSumName:
			line, err := io.ReadAll(io.LimitReader(in, 1<<10))
			if err != nil {
				return nil, damaged(last, err)
			}
			if sum := sha256.Sum256(text); strings.TrimSpace(string(line)) != hex.EncodeToString(sum[:]) {
				return nil, damaged(manifestName, errors.New("its checksum differs"))
			}
			_, err = io.Copy(io.Discard, r) // so that the sender can end
			return finishArchive(text, sums, err)
		default:
			sum := sha256.New()
			body := io.TeeReader(in, sum)
			if keep != nil {
				err := keep(h.Name, fs.FileMode(h.Mode).Perm(), body)
				if errors.Is(err, io.ErrUnexpectedEOF) {
					return nil, damaged(last, err)
				}
				if err != nil {
					return nil, err
				}
			}
			if _, err := io.Copy(io.Discard, body); err != nil {
				return nil, damaged(last, err)
			}
			sums[h.Name] = File{h.Name, h.Size, hex.EncodeToString(sum.Sum(nil))}
		}
	}
}

// damaged says where a backup stops being one.
func damaged(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it is cut short there")
	}
	return &control.Error{
		Code: control.Failed, Err: fmt.Errorf("the backup is damaged at %s: %w", name, err),
		Hint: "use another copy of it, or an older backup; nothing was restored",
	}
}

// finishArchive compares the files that were read with the manifest.
func finishArchive(text []byte, got map[string]File, err error) (*Manifest, error) {
	if err != nil {
		return nil, damaged(manifestSumName, err)
	}
	m := new(Manifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, damaged(manifestName, err)
	}
	if m.Format != format {
		return nil, fmt.Errorf("the backup has format %d, made by hpmq %s: this hpmq knows format %d", m.Format, m.Version, format)
	}
	for _, want := range m.Files {
		switch f, ok := got[want.Name]; {
		case !ok:
			return nil, damaged(want.Name, errors.New("it is missing"))
		case f != want:
			return nil, damaged(want.Name, errors.New("its checksum differs"))
		}
		delete(got, want.Name)
	}
	for name := range got {
		return nil, damaged(name, errors.New("the manifest does not know it"))
	}
	return m, nil
}
