package kubelet

import (
	"context"
	"sync"
)

// journal keeps everything a container wrote and lets any number of readers
// follow it, each from its own position.
type journal struct {
	mu     sync.Mutex
	data   []byte
	closed bool
	grown  chan struct{}
}

func newJournal() *journal { return &journal{grown: make(chan struct{})} }

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.data = append(j.data, p...)
	j.wake()
	return len(p), nil
}

// end tells every follower that nothing more will come.
func (j *journal) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.wake()
}

func (j *journal) wake() {
	close(j.grown)
	j.grown = make(chan struct{})
}

func (j *journal) size() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.data)
}

// next returns what was written after position at; it waits for more unless
// wait is false. An empty result is the end.
func (j *journal) next(ctx context.Context, at int, wait bool) []byte {
	for {
		j.mu.Lock()
		more, closed, grown := j.data[at:], j.closed, j.grown
		j.mu.Unlock()
		if len(more) > 0 || closed || !wait {
			return more
		}
		select {
		case <-ctx.Done():
			return nil
		case <-grown:
		}
	}
}
