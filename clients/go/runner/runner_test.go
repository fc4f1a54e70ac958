package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	store "agentlightning/lightningstore"
)

// These tests need a store server, whose address AGL_TEST_ADDRESS says. Each works in an experiment of its own.

type fixture struct {
	*runner
	connection *grpc.ClientConn
}

func connected(t *testing.T) fixture {
	t.Helper()
	address := os.Getenv("AGL_TEST_ADDRESS")
	if address == "" {
		t.Skip("AGL_TEST_ADDRESS names no store server")
	}
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	options := Options{WorkerID: "go-" + newID(), Experiment: newID(), Concurrency: 2, Heartbeat: 50 * time.Millisecond}
	found := fixture{newRunner(connection, options, nil), connection}
	resources := &store.AddResourcesRequest{ResourcesId: newID(), Resources: []*store.NamedResource{}}
	if _, err := found.resources.AddResources(found.outgoing(context.Background()), resources); err != nil {
		t.Fatal(err)
	}
	return found
}

func (f fixture) enqueue(t *testing.T, input string) string {
	t.Helper()
	rollout := &store.NewRollout{RolloutId: newID(), Input: &store.Payload{ContentType: "application/json", Data: []byte(input)}}
	request := &store.EnqueueRolloutsRequest{Rollouts: []*store.NewRollout{rollout}}
	if _, err := f.rollouts.EnqueueRollouts(f.outgoing(context.Background()), request); err != nil {
		t.Fatal(err)
	}
	return rollout.RolloutId
}

// finished runs an agent until a rollout has finished, and returns that.
func (f fixture) finished(t *testing.T, rolloutID string, agent Agent) *store.Rollout {
	t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Run(ctx, f.connection, f.Options, agent) }()
	defer func() {
		leave()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	wait, err := f.rollouts.WaitForRollouts(f.outgoing(ctx), &store.WaitForRolloutsRequest{RolloutIds: []string{rolloutID}})
	if err != nil {
		t.Fatal(err)
	}
	event, err := wait.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return event.GetFinished()
}

func TestTheRewardIsASpanOfTheAttempt(t *testing.T) {
	f := connected(t)
	id := f.enqueue(t, `{"n":1}`)
	rollout := f.finished(t, id, func(context.Context, Task) (float64, error) { return 0.5, nil })
	if rollout.Status != store.RolloutStatus_ROLLOUT_STATUS_SUCCEEDED {
		t.Fatal(rollout)
	}
	spans, err := f.spans.ListSpans(f.outgoing(context.Background()), &store.ListSpansRequest{RolloutId: id})
	if err != nil {
		t.Fatal(err)
	}
	span := spans.ResourceSpans[0].ScopeSpans[0].Spans[0]
	if span.Attributes[1].Value.GetDoubleValue() != 0.5 {
		t.Error(span)
	}
}

func TestTextOfAnyScriptAndBigIntegersArriveAsTheyWereSent(t *testing.T) {
	f := connected(t)
	id := f.enqueue(t, `{"text":"é漢字🚀","max":9223372036854775807,"above":18446744073709551616}`)
	seen := make(chan map[string]interface{}, 1)
	f.finished(t, id, func(_ context.Context, task Task) (float64, error) {
		decoder := json.NewDecoder(bytes.NewReader(task.Input))
		decoder.UseNumber()
		var input map[string]interface{}
		err := decoder.Decode(&input)
		seen <- input
		return 0, err
	})
	input := fmt.Sprint(<-seen)
	if input != "map[above:18446744073709551616 max:9223372036854775807 text:é漢字🚀]" {
		t.Error(input)
	}
}

func TestFailuresAreReportedAsWhatTheyAre(t *testing.T) {
	f := connected(t)
	for _, expected := range []struct {
		err  error
		kind store.AttemptFailureKind
	}{
		{errors.New("broken"), store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_AGENT_ERROR},
		{fmt.Errorf("no prompt: %w", ErrMissingResource), store.AttemptFailureKind_ATTEMPT_FAILURE_KIND_MISSING_RESOURCES},
	} {
		rollout := f.finished(t, f.enqueue(t, "1"), func(context.Context, Task) (float64, error) { return 0, expected.err })
		failure := rollout.LatestAttempt.Failure
		if failure.GetKind() != expected.kind || failure.GetMessage() != expected.err.Error() {
			t.Error(failure)
		}
	}
}

func TestACancelledRolloutStopsItsAgent(t *testing.T) {
	f := connected(t)
	f.enqueue(t, "1")
	stopped := make(chan error)
	done := make(chan error)
	ctx, leave := context.WithCancel(context.Background())
	go func() {
		done <- Run(ctx, f.connection, f.Options, func(ctx context.Context, task Task) (float64, error) {
			cancelled := store.RolloutStatus_ROLLOUT_STATUS_CANCELLED.Enum()
			request := &store.UpdateRolloutRequest{RolloutId: task.Rollout.RolloutId, Status: cancelled}
			if _, err := f.rollouts.UpdateRollout(f.outgoing(ctx), request); err != nil {
				stopped <- err
			}
			<-ctx.Done() // a heartbeat hears of it
			stopped <- ctx.Err()
			return 0, ctx.Err()
		})
	}()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	leave()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestErrorsCarryTheirDetails(t *testing.T) {
	f := connected(t)
	_, err := f.rollouts.GetRollout(f.outgoing(context.Background()), &store.GetRolloutRequest{RolloutId: "ro-é"})
	if status.Code(err) != codes.NotFound || reasonOf(err) != "ROLLOUT_NOT_FOUND" {
		t.Fatal(err)
	}
	info := status.Convert(err).Details()[0].(*errdetails.ErrorInfo)
	if info.Domain != "lightning_store.v1" || info.Metadata["rollout_id"] != "ro-é" {
		t.Error(info)
	}
}

func TestADeadlineEndsACall(t *testing.T) {
	f := connected(t)
	ctx, cancel := context.WithTimeout(f.outgoing(context.Background()), 50*time.Millisecond)
	defer cancel()
	_, err := f.rollouts.DequeueRollouts(ctx, &store.DequeueRolloutsRequest{Limit: 1, Wait: durationpb.New(time.Minute)})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
}

func TestACancelledCallEnds(t *testing.T) {
	f := connected(t)
	ctx, cancel := context.WithCancel(f.outgoing(context.Background()))
	watch, err := f.rollouts.WatchRollouts(ctx, &store.WatchRolloutsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}
