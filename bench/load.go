package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// load is what one run of the generator does. It travels as JSON to the generator's process.
type load struct {
	Address    string
	Command    string        // find, insert, or getMore
	Collection string        // "order_items" where the cursor goes on, "slow" for answers that take time, "timed" for a replica set's
	NoTenant   bool          // finds name none, so that every home is asked
	Tenants    int           // that are named in turn
	Tenant     string        // the one that is named instead; "" for none
	TLS        bool          // clients speak it
	Reply      int           // bytes of each reply to a find or getMore
	Insert     int           // bytes of each insert's documents
	Compressor string        // what the client's messages are compressed by
	Clients    int           // connections, each with one command under way at most
	Rate       float64       // commands a second of all clients together; 0 sends the next at once
	Warm       time.Duration // before anything is counted
	For        time.Duration // that is counted
	Idle       bool          // each client sends one command when it comes, and then rests
	Process    int           // whose CPU time and memory are counted; 0 for none
}

// result is what a run has found.
type result struct {
	Commands int64
	Seconds  float64
	Latency  latency
	CPU      float64 // seconds of the process
	Rest     int64   // its resident bytes before the clients came
	Peak     int64   // the most while they were served
	After    int64   // when the run was over
	Others   float64 // CPUs in use by none of the run's processes
	Stolen   float64 // CPUs that the machine's host gave to others
}

// phases of a run.
const (
	warming int32 = iota
	counting
	over
)

// generator is a run under way.
type generator struct {
	*load
	phase atomic.Int32
	begun time.Time // when the schedule of an open loop begins
	times *timings
}

// client is one connection of the run.
type client struct {
	*generator
	nc     net.Conn
	in     *framer
	number int
	frames [][]byte
	sent   int32
}

// run connects, sends, and counts.
func (l *load) run() (r result, err error) {
	g := &generator{load: l, times: newTimings()}
	if err := resetPeak(l.Process); err != nil {
		return r, err
	}
	rest := useOf(l.Process).Memory
	clients, err := g.connect()
	defer func() {
		for _, c := range clients {
			_ = c.nc.Close()
		}
	}()
	if err != nil {
		return r, err
	}
	errs := make(chan error, len(clients))
	var wg sync.WaitGroup
	g.begun = time.Now()
	for _, c := range clients {
		wg.Go(func() {
			if err := c.work(); err != nil {
				errs <- err
			}
		})
	}
	r = g.count()
	r.Rest = rest
	if l.Idle {
		r.After = settled(l.Process)
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	if r.Commands == 0 && !l.Idle && err == nil {
		err = errors.New("no command ended in the time counted; count for longer")
	}
	return r, err
}

// count waits for the run's end and measures what is between.
func (g *generator) count() (r result) {
	time.Sleep(g.Warm)
	system, used := machine(), useOf(g.Process)
	start := time.Now()
	g.phase.Store(counting)
	time.Sleep(g.For)
	for range 20 { // on a machine that does other things it may be that none has ended
		if _, n := g.times.summary(); n > 0 || g.Idle {
			break
		}
		time.Sleep(g.For)
	}
	g.phase.Store(over)
	r.Seconds = time.Since(start).Seconds()
	end := useOf(g.Process)
	r.CPU, r.Peak, r.After = end.CPU-used.CPU, end.Peak, end.Memory
	r.Others, r.Stolen = machine().since(system, r.Seconds)
	r.Latency, r.Commands = g.times.summary()
	return r
}

// settled is a process's memory once it has stopped changing, or after half a minute: not before a
// quarter of one, since memory that a crowd has left free goes back when all has been quiet for a while.
func settled(pid int) int64 {
	time.Sleep(15 * time.Second)
	now := useOf(pid).Memory
	for range 15 {
		time.Sleep(time.Second)
		was := now
		if now = useOf(pid).Memory; now > was-64<<10 && now < was+64<<10 {
			break
		}
	}
	return now
}

// connect opens the clients' connections, several at a time.
func (g *generator) connect() ([]*client, error) {
	clients, errs := make([]*client, g.Clients), make([]error, g.Clients)
	places := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for i := range clients {
		places <- struct{}{}
		wg.Go(func() {
			clients[i], errs[i] = g.client(i)
			<-places
		})
	}
	wg.Wait()
	open := clients[:0]
	for _, c := range clients {
		if c != nil {
			open = append(open, c)
		}
	}
	return open, errors.Join(errs...)
}

func (g *generator) client(number int) (*client, error) {
	nc, err := net.DialTimeout(network(g.Address), g.Address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if g.TLS {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the bench's own proxy
	}
	c := &client{generator: g, nc: nc, in: newFramer(nc), number: number}
	if err := c.greet(); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("greet %s: %w", g.Address, err)
	}
	return c, nil
}

// greet says hello, and opens the cursor that is to be read.
func (c *client) greet() error {
	if _, err := c.nc.Write(hello()); err != nil {
		return err
	}
	if _, err := c.reply(); err != nil {
		return err
	}
	if c.Command != "getMore" {
		var err error
		if c.frames, err = frames(c.load, c.number); err == nil && c.Idle {
			_, err = c.exchange()
		}
		return err
	}
	find := *c.load
	find.Command, find.Reply = "find", 200 // its id is in what one read brings
	if _, err := c.nc.Write(command(&find, c.number, tenantID(1+c.number%max(c.Tenants, 1)))); err != nil {
		return err
	}
	id, err := c.reply()
	c.frames = [][]byte{getMore(c.load, c.number, id)}
	return err
}

// work sends one command after the other until the run is over.
func (c *client) work() error {
	if c.Idle {
		return nil
	}
	for k := 0; c.phase.Load() != over; k++ {
		due, waits := c.due(k)
		if waits {
			time.Sleep(time.Until(due))
			due = forgiven(due, time.Now())
			if c.phase.Load() == over {
				break
			}
		}
		end, err := c.exchange()
		if err != nil {
			return err
		}
		if c.phase.Load() == counting {
			c.times.note(c.number, end.Sub(due))
		}
	}
	return nil
}

// due is when the k-th command is to be sent, and whether that lies ahead. In an open loop the clients
// send in turn, at times that depend on no answer: a command that can't be sent in time, since the one
// before it has no answer yet, counts from when it was due.
func (c *client) due(k int) (due time.Time, waits bool) {
	now := time.Now()
	if c.Rate == 0 {
		return now, false
	}
	nth := float64(k*c.Clients + c.number)
	due = c.begun.Add(time.Duration(nth / c.Rate * float64(time.Second)))
	return due, due.After(now)
}

// timerSlack is by how much the runtime's timers are late on a machine that has nothing else to do.
const timerSlack = time.Millisecond + 200*time.Microsecond

// forgiven is when a command of a client that has slept counts from: the generator's own timers are
// late by up to a millisecond, which is nobody's latency. What is later counts.
func forgiven(due, woken time.Time) time.Time {
	if late := woken.Sub(due); late < timerSlack {
		return woken
	}
	return due.Add(timerSlack)
}

// exchange sends a command and reads its reply.
func (c *client) exchange() (end time.Time, err error) {
	c.sent++
	f := c.frames[int(c.sent)%len(c.frames)]
	wire.SetIDs(f, c.sent, 0)
	if _, err := c.nc.Write(f); err != nil {
		return end, err
	}
	_, err = c.reply()
	return time.Now(), err
}

// reply reads a reply and returns the cursor's id where it is small; one that says no is an error.
func (c *client) reply() (cursor int64, err error) {
	n, front, err := c.in.skip()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the connection was closed instead of an answer")
		}
		return 0, err
	}
	if n > len(front) || wire.ReadHeader(front).OpCode != wire.OpMsg {
		return 0, nil
	}
	body, err := bodyOf(front)
	if err != nil {
		return 0, err
	}
	ok := false
	for it := body.Iter(); it.Next(); {
		switch string(it.Key) {
		case "ok":
			ok = it.Value.True()
		case "cursor":
			d, _ := it.Value.Doc()
			v, _ := d.Lookup("id")
			cursor, _ = v.Int()
		}
	}
	if !ok {
		return 0, fmt.Errorf("the answer says no: %s", bsoncore.Document(body))
	}
	return cursor, nil
}
