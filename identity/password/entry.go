package password

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Entry is one name that has a password.
type Entry struct {
	Name string // of the caller's choosing, without white space
	// Generation is the caller's: it separates a password from the passwords of an
	// earlier identity with the same name.
	Generation uint64
	Set        time.Time // when, to the second
}

// entry is a line of the file.
type entry struct {
	Entry
	hash hash
}

func (e entry) line() string {
	return fmt.Sprintf("%s %d %s %s\n", e.Name, e.Generation, e.Set.UTC().Format(time.RFC3339), e.hash)
}

var errLine = errors.New("want NAME GENERATION TIME HASH")

func parseLine(line string) (e entry, err error) {
	field := strings.Fields(line)
	if len(field) != 4 {
		return e, errLine
	}
	e.Name = field[0]
	if e.Generation, err = strconv.ParseUint(field[1], 10, 64); err != nil {
		return e, errLine
	}
	if e.Set, err = time.Parse(time.RFC3339, field[2]); err != nil {
		return e, errLine
	}
	e.hash, err = parseHash(field[3])
	return e, err
}

// parse reads a file. It skips empty lines and lines that begin with #.
func parse(text string) (map[string]entry, error) {
	all := make(map[string]entry)
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		e, err := parseLine(line)
		if err != nil { // without the line, which may hold anything
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if _, twice := all[e.Name]; twice {
			return nil, fmt.Errorf("line %d: %q has a password already", number, e.Name)
		}
		all[e.Name] = e
	}
	return all, nil
}

const header = "# Passwords of MQTT clients without certificates. Write with: hpmq passwd\n"

func format(all map[string]entry) string {
	var b strings.Builder
	b.WriteString(header)
	for _, e := range sorted(all) {
		b.WriteString(e.line())
	}
	return b.String()
}

func sorted(all map[string]entry) []entry {
	list := make([]entry, 0, len(all))
	for _, e := range all {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return list
}
