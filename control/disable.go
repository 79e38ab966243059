package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// bringWidth is how many tenants are brought home at once.
const bringWidth = 8

// bringHome brings every tenant back to shared whose own databases hold no documents, so that the
// mode disabled can be loaded. If some hold documents nobody is brought home. It is about the clusters
// in force, which clients are served by meanwhile.
func (c *Control) bringHome(ctx context.Context, r *rules) error {
	read, err := c.storeOf(r).confirmed(ctx)
	if err != nil {
		return err
	}
	jobs, err := c.homeJobs(r, read)
	if err != nil || len(jobs) == 0 {
		return err
	}
	away, err := parallel(jobs, func(j *job) (string, error) {
		s, err := j.surveyOwn(ctx, false)
		if err != nil || s.target != nil {
			return "", err
		}
		return j.key, nil
	})
	if err == nil && len(away) > 0 {
		err = permanent{errAway(away)}
	}
	if err != nil {
		return err
	}
	left, err := parallel(jobs, func(j *job) (string, error) {
		return c.bring(ctx, j)
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf(`the mode "disabled" can not be loaded: %s`, some(left))
	}
	return err
}

// homeJobs is a flip back for each route that has moved something.
func (c *Control) homeJobs(r *rules, read map[tenantID]*Route) ([]*job, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.flips {
		if f.tried != nil {
			return nil, fmt.Errorf("the route of tenant %q is being written; try again", f.tried.Key)
		}
	}
	routes := c.withKnown(read)
	if found := r.contradictions(routes, c.rules); len(found) > 0 {
		return nil, permanent{errors.New(some(found))}
	}
	var jobs []*job
	for _, route := range sortedRoutes(routes) {
		if !route.own() {
			continue
		}
		id := idOf(route.ID)
		if c.routes[id].epoch() < route.Epoch {
			c.setRoute(route)
		}
		t := r.newTenant(listing{id: id, value: route.ID, key: route.Key, source: "route"}, c.num(id), route)
		j, err := c.newJob(r, t)
		if err != nil {
			return nil, permanent{err}
		}
		j.forApply = true
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// bring flips one tenant back; it returns why it could not.
func (c *Control) bring(ctx context.Context, j *job) (string, error) {
	f := &flip{id: j.id, done: make(chan struct{})}
	c.mu.Lock()
	if c.flips[j.id] != nil {
		c.mu.Unlock()
		return fmt.Sprintf("tenant %q is being flipped; try again", j.key), nil
	}
	c.flips[j.id] = f
	c.mu.Unlock()
	out := c.runFlip(ctx, f, j)
	c.conclude(f, j.tenant, out)
	switch out.kind {
	case outcomeHome:
		return "", nil
	case outcomeRefused:
		return "", permanent{errAway([]string{j.key})}
	}
	return fmt.Sprintf("tenant %q: %s", j.key, out.why), ctx.Err()
}

// parallel does something for every job, a few at once, and returns the texts that came of it.
func parallel(jobs []*job, do func(*job) (string, error)) ([]string, error) {
	var mu sync.Mutex
	var all []string
	var errs error
	var wg sync.WaitGroup
	width := make(chan struct{}, bringWidth)
	for _, j := range jobs {
		width <- struct{}{}
		wg.Go(func() {
			defer func() { <-width }()
			text, err := do(j)
			mu.Lock()
			defer mu.Unlock()
			if text != "" {
				all = append(all, text)
			}
			if errs == nil {
				errs = err
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all, errs
}
