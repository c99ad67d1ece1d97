package topic

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

type subscription struct {
	filter string
	key    int
}

// TestTreeAgainstList drives a tree and a plain list by the same random changes
// and asks both the same questions.
func TestTreeAgainstList(t *testing.T) {
	filters := rapid.SampledFrom([]string{
		"a", "/", "+", "#", "a/#", "+/#", "a/b", "a/+", "+/b", "+/+", "a/b/#", "a/+/c", "a//c", "/+", "/#", "$s/#", "$s/+", "$s/a", "$s",
	})
	names := []string{"a", "/", "b", "a/b", "a/c", "a/b/c", "a//c", "/x", "$s", "$s/a", "$s/a/b", "x/b", "x/y/z"}
	rapid.Check(t, func(t *rapid.T) {
		tree, list := NewTree[int, int](), map[subscription]int{}
		keysOf := func(filter string) (n int) {
			for s := range list {
				if s.filter == filter {
					n++
				}
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				s := subscription{filters.Draw(t, "filter"), rapid.IntRange(0, 40).Draw(t, "key")}
				value := rapid.Int().Draw(t, "value")
				_, had := list[s]
				list[s] = value
				generation := tree.Generation()
				keys, replaced := tree.Add(s.filter, s.key, value)
				if keys != keysOf(s.filter) || replaced != had {
					t.Fatalf("Add(%v) = %d, %v, want %d, %v", s, keys, replaced, keysOf(s.filter), had)
				}
				if tree.Generation() == generation {
					t.Fatalf("Add(%v) left the generation alone", s)
				}
			},
			"remove": func(t *rapid.T) {
				s := subscription{filters.Draw(t, "filter"), rapid.IntRange(0, 40).Draw(t, "key")}
				_, had := list[s]
				delete(list, s)
				generation := tree.Generation()
				keys, removed := tree.Remove(s.filter, s.key)
				if keys != keysOf(s.filter) || removed != had {
					t.Fatalf("Remove(%v) = %d, %v, want %d, %v", s, keys, removed, keysOf(s.filter), had)
				}
				if changed := tree.Generation() != generation; changed != had {
					t.Fatalf("Remove(%v) changed the generation: %v, want %v", s, changed, had)
				}
			},
			"": func(t *rapid.T) {
				for _, name := range names {
					var want []int
					for s, value := range list {
						if naiveMatch(s.filter, name) {
							want = append(want, value)
						}
					}
					got := tree.Match(nil, name)
					slices.Sort(got)
					slices.Sort(want)
					if !slices.Equal(got, want) {
						t.Fatalf("Match(%q) = %v, want %v", name, got, want)
					}
				}
				checkTree(t, tree, list)
			},
		})
	})
}

// checkTree demands that every entry is found and that the tree has the nodes of the
// filters' prefixes, no more.
func checkTree(t *rapid.T, tree *Tree[int, int], list map[subscription]int) {
	prefixes := map[string]bool{}
	for s, value := range list {
		if got, ok := tree.Get(s.filter, s.key); !ok || got != value {
			t.Fatalf("Get(%v) = %v, %v, want %v", s, got, ok, value)
		}
		levels := strings.Split(strings.TrimSuffix(s.filter, "#"), "/")
		if strings.HasSuffix(s.filter, "#") {
			levels = levels[:len(levels)-1]
		}
		for i := range levels {
			prefixes[strings.Join(levels[:i+1], "/")] = true
		}
	}
	if tree.Len() != len(list) {
		t.Fatalf("%d entries, want %d", tree.Len(), len(list))
	}
	checkTrie(t, &tree.levels, prefixes)
}

func TestTreeManyKeysOfOneFilter(t *testing.T) {
	tree := NewTree[string, int]()
	for i := range 10_000 {
		tree.Add("a/#", strconv.Itoa(i), i)
	}
	for i := range 10_000 {
		if i%100 != 0 {
			tree.Remove("a/#", strconv.Itoa(i))
		}
	}
	got := tree.Match(nil, "a/b")
	slices.Sort(got)
	var want []int
	for i := 0; i < 10_000; i += 100 {
		want = append(want, i)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Match (-want +got):\n%s", diff)
	}
	if at, _, _ := tree.levels.find("a/#"); cap(tree.lists.at(tree.levels.nodes.at(at).open).all) > 1000 {
		t.Error("100 entries keep room for more than 1000")
	}
}

// A broker that once had many subscriptions does not keep their memory.
func TestTreeShrinks(t *testing.T) {
	tree := NewTree[int, int]()
	for i := range 5000 {
		tree.Add("a/"+strconv.Itoa(i), 0, i)
	}
	for i := 10; i < 5000; i++ {
		tree.Remove("a/"+strconv.Itoa(i), 0)
	}
	if nodes, lists := tree.levels.nodes.size(), tree.lists.size(); nodes > 1024 || lists > 1024 {
		t.Errorf("10 filters keep room for %d nodes and %d lists", nodes, lists)
	}
	for i := range 10 {
		if got := tree.Match(nil, "a/"+strconv.Itoa(i)); len(got) != 1 || got[0] != i {
			t.Errorf("Match of %d = %v", i, got)
		}
	}
}

func TestTreeConcurrently(t *testing.T) {
	tree := NewTree[int, int]()
	tree.Add("a/+", -1, -1)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 500 {
				filter := "a/" + strconv.Itoa(i%7)
				tree.Add(filter, w, i)
				tree.Remove(filter, w)
			}
		})
		wg.Go(func() {
			var got []int
			for i := range 500 {
				if got = tree.Match(got[:0], "a/"+strconv.Itoa(i%7)); !slices.Contains(got, -1) {
					t.Error("a standing subscription was missed")
					return
				}
			}
		})
	}
	wg.Wait()
	if tree.Len() != 1 {
		t.Errorf("%d entries are left, want 1", tree.Len())
	}
}

func TestTreeMatchDoesNotAllocate(t *testing.T) {
	tree := NewTree[int, int]()
	for i, f := range []string{"#", "a/+/c", "a/b/c", "+/b/#", "a/b/+"} {
		tree.Add(f, i, i)
	}
	dst := make([]int, 0, 8)
	slashes := "a/b/" + strings.Repeat("/", MaxLen-4)
	if n := testing.AllocsPerRun(100, func() {
		if dst = tree.Match(dst[:0], "a/b/c"); len(dst) != 5 {
			t.Errorf("%d matches, want 5", len(dst))
		}
		dst = tree.Match(dst[:0], slashes)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// fill makes n filters as a fleet of devices does: some exact, some with
// wildcards.
func fill(n int) *Tree[int, int] {
	tree := NewTree[int, int]()
	for i := range n {
		switch i % 10 {
		case 0:
			tree.Add(fmt.Sprintf("site/%d/+/%d/#", i%50, i), i, i)
		case 1:
			tree.Add(fmt.Sprintf("+/%d/line/%d/temp", i%50, i), i, i)
		default:
			tree.Add(fmt.Sprintf("site/%d/line/%d/temp", i%50, i), i, i)
		}
	}
	return tree
}

func BenchmarkTreeMatch(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("filters=%d", n), func(b *testing.B) {
			tree := fill(n)
			names := make([]string, 0, n)
			for i := range n {
				names = append(names, fmt.Sprintf("site/%d/line/%d/temp", i%50, i))
			}
			var dst []int
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				dst = tree.Match(dst[:0], names[i%n])
				i += 7
			}
		})
	}
}

func BenchmarkTreeChurn(b *testing.B) {
	tree := fill(100_000)
	b.ReportAllocs()
	for b.Loop() {
		tree.Add("site/7/line/new/temp", -1, 0)
		tree.Remove("site/7/line/new/temp", -1)
	}
}

func BenchmarkTreeFill(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		fill(100_000)
	}
}

func TestTreeGetMissing(t *testing.T) {
	tree := NewTree[int, int]()
	tree.Add("a/b", 1, 1)
	for _, s := range []subscription{{"a/b", 2}, {"a", 1}, {"a/c", 1}, {"a/b/#", 1}, {"+", 1}} {
		if got, ok := tree.Get(s.filter, s.key); ok {
			t.Errorf("Get(%v) = %v", s, got)
		}
	}
}

func BenchmarkTreeMatchParallel(b *testing.B) {
	tree := fill(100_000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]int, 0, 8)
		for pb.Next() {
			dst = tree.Match(dst[:0], "site/7/line/57/temp")
		}
	})
}
