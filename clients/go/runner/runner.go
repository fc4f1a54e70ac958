// Package runner takes rollouts from an Agent Lightning store, runs an agent on them, and reports.
//
// It is small on purpose: what a runner needs, on nothing but the code that is generated from the contract.
package runner

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	store "agentlightning/lightningstore"
)

const (
	poll           = 5 * time.Second
	pauseOnError   = 200 * time.Millisecond
	leaseIntervals = 3
	shortestLease  = 5 * time.Second
)

// Task is what an agent is given.
type Task struct {
	// Input is JSON. Decode it with json.Decoder.UseNumber where integers may be larger than 2^53.
	Input json.RawMessage
	// Resources are what the algorithm published, in its order.
	Resources []*store.NamedResource
	Rollout   *store.Rollout
	Attempt   *store.Attempt
}

// Agent works on a task and returns its reward. Its context is cancelled when it is to stop.
type Agent func(ctx context.Context, task Task) (float64, error)

// ErrMissingResource is for agents to wrap when they need a resource that the task lacks.
var ErrMissingResource = errors.New("missing resource")

// Options say how a runner works.
type Options struct {
	// WorkerID is what the store is to call this runner, unique among those that work at once.
	WorkerID string
	// Experiment is `default` if empty.
	Experiment string
	// Concurrency is how many rollouts to run at once, 1 to 1,000.
	Concurrency int
	// Heartbeat is the time between two heartbeats; claims are leased for three of them, 5 s at least.
	Heartbeat time.Duration
}

type runner struct {
	Options
	agent     Agent
	rollouts  store.RolloutServiceClient
	attempts  store.AttemptServiceClient
	spans     store.SpanServiceClient
	resources store.ResourcesServiceClient
	workers   store.WorkerServiceClient
	known     map[string]*store.Resources

	mutex sync.Mutex
	held  map[key]context.CancelFunc
}

type key struct{ rolloutID, attemptID string }

// Run takes rollouts until the context is cancelled or the store says to leave. Where the context is cancelled, the agents
// at work are stopped, and their attempts reported as cancelled; where the store said so, they finish. The error is that
// of a store that refused work, or could not be reached for a minute.
func Run(ctx context.Context, connection grpc.ClientConnInterface, options Options, agent Agent) error {
	r := newRunner(connection, options, agent)
	taking, leave := context.WithCancel(ctx)
	defer leave()
	beating, end := context.WithCancel(context.Background())
	defer end()
	go r.beat(beating, leave)
	return r.work(ctx, taking)
}

func newRunner(connection grpc.ClientConnInterface, options Options, agent Agent) *runner {
	return &runner{
		Options:   options,
		agent:     agent,
		rollouts:  store.NewRolloutServiceClient(connection),
		attempts:  store.NewAttemptServiceClient(connection),
		spans:     store.NewSpanServiceClient(connection),
		resources: store.NewResourcesServiceClient(connection),
		workers:   store.NewWorkerServiceClient(connection),
		known:     map[string]*store.Resources{},
		held:      map[key]context.CancelFunc{},
	}
}

// work fills the free slots until `taking` is cancelled, and waits for what runs.
func (r *runner) work(ctx, taking context.Context) error {
	slots := make(chan struct{}, r.Concurrency)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-taking.Done():
			return nil
		case slots <- struct{}{}:
		}
		free := r.Concurrency - len(slots) + 1 // only this goroutine fills slots
		claims, err := r.claim(taking, int32(free))
		if taking.Err() != nil {
			return r.handBack(claims)
		}
		if err != nil {
			return err
		}
		<-slots
		for _, claim := range claims {
			slots <- struct{}{}
			running.Add(1)
			resources := r.known[claim.Rollout.GetResourcesId()]
			go func(claim *store.Claim) {
				defer func() { <-slots; running.Done() }()
				r.perform(ctx, claim, resources)
			}(claim)
		}
	}
}

// claim waits for work for up to `poll`. Its claim id makes it safe to send again.
func (r *runner) claim(ctx context.Context, limit int32) (claims []*store.Claim, err error) {
	lease := leaseIntervals * r.Heartbeat
	if lease < shortestLease {
		lease = shortestLease
	}
	request := &store.DequeueRolloutsRequest{
		Limit:         limit,
		WorkerId:      r.WorkerID,
		ClaimId:       newID(),
		Wait:          durationpb.New(poll),
		Lease:         durationpb.New(lease),
		WithResources: true,
	}
	for _, set := range r.known {
		version := &store.ResourcesVersion{ResourcesId: set.ResourcesId, Version: set.Version}
		request.KnownResources = append(request.KnownResources, version)
	}
	err = r.call(ctx, poll, func(ctx context.Context) error {
		response, err := r.rollouts.DequeueRollouts(ctx, request)
		if reasonOf(err) == "EXPERIMENT_NOT_FOUND" { // the algorithm may start after its runners
			time.Sleep(pauseOnError)
			return nil
		}
		if err != nil {
			return err
		}
		claims = response.Claims
		for _, set := range response.Resources {
			r.known[set.ResourcesId] = set
		}
		if response.Draining {
			time.Sleep(pauseOnError) // the heartbeat hears of it, too
		}
		return nil
	})
	return claims, err
}

func (r *runner) handBack(claims []*store.Claim) error {
	if len(claims) == 0 {
		return nil
	}
	request := &store.ReleaseAttemptsRequest{}
	for _, claim := range claims {
		attempt := &store.AttemptKey{RolloutId: claim.Attempt.RolloutId, AttemptId: claim.Attempt.AttemptId}
		request.Attempts = append(request.Attempts, attempt)
	}
	return r.call(context.Background(), 0, func(ctx context.Context) error {
		_, err := r.attempts.ReleaseAttempts(ctx, request)
		return err
	})
}

// perform runs the agent on one claimed rollout and reports the end, whatever it is.
func (r *runner) perform(ctx context.Context, claim *store.Claim, set *store.Resources) {
	here := key{claim.Attempt.RolloutId, claim.Attempt.AttemptId}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.hold(here, cancel)
	defer r.hold(here, nil)

	failure := r.runAgent(ctx, claim, set)
	report := &store.UpdateAttemptRequest{RolloutId: here.rolloutID, AttemptId: here.attemptID}
	report.Status = store.AttemptStatus_ATTEMPT_STATUS_SUCCEEDED.Enum()
	if failure != nil {
		report.Status = store.AttemptStatus_ATTEMPT_STATUS_FAILED.Enum()
		report.Failure = failure
	}
	// Not under the agent's context: what was cancelled is reported, too.
	err := r.call(context.Background(), 0, func(ctx context.Context) error {
		_, err := r.attempts.UpdateAttempt(ctx, report)
		return err
	})
	if err != nil { // the lease will run out, and the store decides what follows
		log.Printf("the end of rollout %s, attempt %s could not be reported: %v", here.rolloutID, here.attemptID, err)
	}
}

// runAgent returns nil once the agent has returned and the store has its reward.
func (r *runner) runAgent(ctx context.Context, claim *store.Claim, set *store.Resources) *store.AttemptFailure {
	set, err := r.resourcesFor(ctx, claim.Rollout, set)
	if err != nil {
		return failed(ctx, store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_INFRASTRUCTURE, err)
	}
	begun := time.Now()
	task := Task{Input: claim.Rollout.GetInput().GetData(), Resources: set.Resources, Rollout: claim.Rollout, Attempt: claim.Attempt}
	reward, err := r.agent(ctx, task)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return failed(ctx, store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_AGENT_ERROR, err)
	}
	spans := rewardSpan(claim.Attempt, reward, begun)
	err = r.call(context.Background(), 0, func(ctx context.Context) error {
		_, err := r.spans.AddSpans(ctx, spans)
		return err
	})
	if err != nil {
		return failed(ctx, store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_INFRASTRUCTURE, err)
	}
	return nil
}

// resourcesFor returns the set that came with the claim or an earlier one, or asks for it.
func (r *runner) resourcesFor(ctx context.Context, rollout *store.Rollout, set *store.Resources) (*store.Resources, error) {
	if set != nil {
		return set, nil
	}
	err := r.call(ctx, 0, func(ctx context.Context) error {
		if rollout.ResourcesId == nil {
			response, err := r.resources.GetLatestResources(ctx, &store.GetLatestResourcesRequest{})
			set = response.GetResources()
			return err
		}
		response, err := r.resources.GetResources(ctx, &store.GetResourcesRequest{ResourcesId: *rollout.ResourcesId})
		set = response.GetResources()
		return err
	})
	if reason := reasonOf(err); reason == "RESOURCES_NOT_FOUND" || reason == "NO_RESOURCES" {
		return nil, missing{err}
	}
	return set, err
}

func failed(ctx context.Context, kind store.AttemptFailureKind, err error) *store.AttemptFailure {
	if ctx.Err() != nil {
		kind = store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_CANCELLED
	} else if errors.Is(err, ErrMissingResource) {
		kind = store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_MISSING_RESOURCES
	}
	return &store.AttemptFailure{Kind: kind, Message: err.Error()}
}

type missing struct{ error }

func (missing) Is(target error) bool { return target == ErrMissingResource }

// beat says that the worker lives and what it holds, and does what the answers say.
func (r *runner) beat(ctx context.Context, leave context.CancelFunc) {
	ticker := time.NewTicker(r.Heartbeat)
	defer ticker.Stop()
	for {
		request := &store.UpdateWorkerRequest{WorkerId: r.WorkerID}
		r.mutex.Lock()
		for held := range r.held {
			attempt := &store.AttemptKey{RolloutId: held.rolloutID, AttemptId: held.attemptID}
			request.HeldAttempts = append(request.HeldAttempts, attempt)
		}
		r.mutex.Unlock()
		deadline, cancel := context.WithTimeout(r.outgoing(ctx), r.Heartbeat)
		response, err := r.workers.UpdateWorker(deadline, request)
		cancel()
		if err != nil && ctx.Err() == nil && reasonOf(err) != "EXPERIMENT_NOT_FOUND" {
			log.Printf("heartbeat of %s failed: %v", r.WorkerID, err)
		}
		for _, command := range response.GetCommands() {
			if attempt := command.GetCancelAttempt(); attempt != nil {
				r.stop(key{attempt.RolloutId, attempt.AttemptId})
			}
			if command.GetDrain() != nil {
				leave()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// hold notes how an attempt is stopped; nil forgets it.
func (r *runner) hold(here key, cancel context.CancelFunc) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if cancel == nil {
		delete(r.held, here)
	} else {
		r.held[here] = cancel
	}
}

func (r *runner) stop(here key) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if cancel := r.held[here]; cancel != nil {
		cancel()
	}
}
