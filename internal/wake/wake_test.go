package wake

import (
	"sync"
	"testing"
	"testing/synctest"
)

func TestToken(t *testing.T) {
	token := NewToken()
	token.Wake()
	token.Wake() // the same
	<-token
	select {
	case <-token:
		t.Error("two wakes before a look are two")
	default:
	}
	Token(nil).Wake()
}

func TestBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Broadcast
		b.Fire() // to nobody
		var woken sync.WaitGroup
		for range 3 {
			next := b.Wait()
			woken.Go(func() { <-next })
		}
		synctest.Wait()
		b.Fire()
		woken.Wait()
		select {
		case <-b.Wait():
			t.Error("a wait after the last wake does not wait")
		default:
		}
	})
}
