package topic

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// answers returns the values that a question of Filters visits, sorted.
func answers(ask func(string, func(*int) bool), object string) []int {
	var got []int
	ask(object, func(v *int) bool {
		got = append(got, *v)
		return true
	})
	slices.Sort(got)
	return got
}

// TestFiltersAgainstModel compares each filter of the universe, alone, with the
// names that the naive model says it matches.
func TestFiltersAgainstModel(t *testing.T) {
	filters, names := universe()
	matched := make([][]bool, len(filters))
	alone := make([]Filters[int], len(filters))
	for i, f := range filters {
		alone[i].Add(f, i)
		matched[i] = make([]bool, len(names))
		for k, n := range names {
			matched[i][k] = naiveMatch(f, n)
			if got := answers(alone[i].Match, n) != nil; got != matched[i][k] {
				t.Fatalf("%q matches %q: %v", f, n, got)
			}
		}
	}
	for i, a := range filters {
		for j, b := range filters {
			covers, overlaps := true, false
			for k := range names {
				covers = covers && (matched[i][k] || !matched[j][k])
				overlaps = overlaps || matched[i][k] && matched[j][k]
			}
			if got := answers(alone[i].Covering, b) != nil; got != covers {
				t.Fatalf("%q covers %q: %v", a, b, got)
			}
			if got := answers(alone[i].Overlapping, b) != nil; got != overlaps {
				t.Fatalf("%q overlaps %q: %v", a, b, got)
			}
		}
	}
}

// drawLevels makes filters, or names without the wildcards, of few levels: many
// meet, and some levels have more children than a list holds.
func drawLevels(wild ...string) *rapid.Generator[string] {
	level := rapid.SampledFrom(append(strings.Split("a b c d e f g h i j k $s", " "), append(wild, "")...))
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(level, 1, 3).Draw(t, "levels"), "/")
		if len(wild) > 0 && rapid.IntRange(0, 3).Draw(t, "open") == 0 {
			s += "/#"
		}
		if s == "" {
			return "a"
		}
		return s
	})
}

// TestFiltersAgainstScan asks many filters together and each one alone.
func TestFiltersAgainstScan(t *testing.T) {
	filter, name := drawLevels("+", "+"), drawLevels()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(filter, 0, 60).Draw(t, "filters")
		var all Filters[int]
		for i, f := range list {
			all.Add(f, i)
		}
		for what, q := range map[string]struct {
			ask    func(string, func(*int) bool)
			object string
			holds  func(filter, object string) bool
		}{
			"Match":       {all.Match, name.Draw(t, "name"), naiveMatch},
			"Covering":    {all.Covering, filter.Draw(t, "covered"), Covers},
			"Overlapping": {all.Overlapping, filter.Draw(t, "overlapped"), Overlaps},
		} {
			var want []int
			for i, f := range list {
				if q.holds(f, q.object) {
					want = append(want, i)
				}
			}
			if got := answers(q.ask, q.object); !slices.Equal(got, want) {
				t.Fatalf("%s(%q) in %q = %v, want %v", what, q.object, list, got, want)
			}
			if len(want) == 0 {
				continue
			}
			visits, enough := 0, rapid.IntRange(1, len(want)).Draw(t, "enough")
			q.ask(q.object, func(*int) bool {
				visits++
				return visits < enough
			})
			if visits != enough {
				t.Fatalf("%s(%q) visited %d values, after the visitor had enough with %d", what, q.object, visits, enough)
			}
		}
	})
}

func TestFiltersDoNotAllocate(t *testing.T) {
	var f Filters[int]
	for i, filter := range []string{"#", "a/+/c", "a/b/c", "+/b/#", "a/b/+"} {
		f.Add(filter, i)
	}
	if n := testing.AllocsPerRun(100, func() {
		sum := 0
		visit := func(v *int) bool {
			sum += *v
			return true
		}
		f.Match("a/b/c", visit)
		f.Covering("a/b/c", visit)
		f.Overlapping("+/#", visit)
		if sum != 30 {
			t.Errorf("sum %d, want 30", sum)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// checkTrie demands that the trie has the nodes of the prefixes, no more, and that the
// hash table has the children of the long lists, no more.
func checkTrie(t *rapid.T, trie *trie, prefixes map[string]bool) {
	children := map[string]int{}
	for p := range prefixes {
		parent, level := "none", p
		if i := strings.LastIndexByte(p, '/'); i >= 0 {
			parent, level = p[:i], p[i+1:]
		}
		if level != "+" {
			children[parent]++
		}
	}
	edges := 0
	for _, n := range children {
		if n > longList {
			edges += n
		}
	}
	if trie.nodes.used() != len(prefixes) || len(trie.edges) != edges {
		t.Fatalf("%d nodes and %d edges, want %d and %d", trie.nodes.used(), len(trie.edges), len(prefixes), edges)
	}
}

// TestNamesAgainstMap drives Names and a plain map by the same random changes and
// asks both the same questions.
func TestNamesAgainstMap(t *testing.T) {
	name, filter := drawLevels(), drawLevels("+", "+")
	wide := rapid.Map(rapid.IntRange(0, longList+3), func(i int) string { return fmt.Sprintf("wide/%d", i) })
	name = rapid.OneOf(name, wide, wide, wide) // lists that get long and short again
	rapid.Check(t, func(t *rapid.T) {
		var names Names[string]
		kept := map[string]*string{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if old := names.Put(n, &n); old != kept[n] {
					t.Fatalf("Put(%q) replaced %v, want %v", n, old, kept[n])
				}
				kept[n] = &n
			},
			"remove": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if len(kept) > 0 && rapid.Bool().Draw(t, "kept") {
					n = rapid.SampledFrom(slices.Sorted(maps.Keys(kept))).Draw(t, "known")
				}
				if old := names.Remove(n); old != kept[n] {
					t.Fatalf("Remove(%q) = %v, want %v", n, old, kept[n])
				}
				delete(kept, n)
			},
			"": func(t *rapid.T) {
				f := filter.Draw(t, "filter")
				var want, got []string
				prefixes := map[string]bool{}
				for n, v := range kept {
					if names.Get(n) != v {
						t.Fatalf("Get(%q) = %v, want %v", n, names.Get(n), v)
					}
					if naiveMatch(f, n) {
						want = append(want, n)
					}
					for i := range n + "/" {
						if (n + "/")[i] == '/' {
							prefixes[n[:i]] = true
						}
					}
				}
				for _, v := range names.Match(f, nil) {
					got = append(got, *v)
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("Match(%q) = %q, want %q", f, got, want)
				}
				if names.Len() != len(kept) || len(names.All(nil)) != len(kept) {
					t.Fatalf("%d names, want %d", names.Len(), len(kept))
				}
				checkTrie(t, &names.levels, prefixes)
			},
		})
	})
}

// A store that once had many retained messages does not keep their memory.
func TestNamesShrink(t *testing.T) {
	var names Names[int]
	for i := range 2 * pageLen {
		names.Put(fmt.Sprintf("a/%d/x", i), &i)
	}
	for i := 10; i < 2*pageLen; i++ {
		names.Remove(fmt.Sprintf("a/%d/x", i))
	}
	if nodes, values := names.levels.nodes.size(), names.values.size(); nodes > 1024 || values > 1024 || names.Len() != 10 {
		t.Errorf("%d names keep room for %d nodes and %d values", names.Len(), nodes, values)
	}
	for i := range 10 {
		if got := names.Get(fmt.Sprintf("a/%d/x", i)); got == nil || *got != i {
			t.Errorf("Get of %d = %v", i, got)
		}
	}
}

func BenchmarkNames(b *testing.B) {
	const n = 100_000
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("site/%d/line/%d/temp", i%50, i)
	}
	var names Names[int]
	for i := range list {
		names.Put(list[i], &i)
	}
	b.Run("fill", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var names Names[int]
			for i := range list {
				names.Put(list[i], &i)
			}
		}
	})
	for _, filter := range []string{"site/7/line/57/temp", "site/7/#", "site/+/line/57/temp"} {
		b.Run("match/"+strings.ReplaceAll(filter, "/", "."), func(b *testing.B) {
			b.ReportAllocs()
			var dst []*int
			for b.Loop() {
				dst = names.Match(filter, dst[:0])
			}
		})
	}
}
