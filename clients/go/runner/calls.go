package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	store "agentlightning/lightningstore"
)

const (
	answerWithin = 30 * time.Second
	patience     = time.Minute
)

// call sends a call again while the store cannot be reached, for up to a minute. Every call of this package names what it
// works on by ids of its own, so that sending one again does nothing twice.
func (r *runner) call(ctx context.Context, wait time.Duration, send func(context.Context) error) error {
	giveUp := time.Now().Add(patience)
	for {
		deadline, cancel := context.WithTimeout(r.outgoing(ctx), wait+answerWithin)
		err := send(deadline)
		cancel()
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil || time.Now().After(giveUp) {
			return err
		}
		time.Sleep(pauseOnError)
	}
}

func (r *runner) outgoing(ctx context.Context) context.Context {
	if r.Experiment == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "agl-experiment", r.Experiment)
}

// reasonOf returns why the store refused a call, as the contract names it; empty if it did not.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

// rewardSpan returns the annotation that algorithms read the reward of an attempt from.
func rewardSpan(attempt *store.Attempt, reward float64, begun time.Time) *store.AddSpansRequest {
	name := &store.AnyValue{Value: &store.AnyValue_StringValue{StringValue: "primary"}}
	value := &store.AnyValue{Value: &store.AnyValue_DoubleValue{DoubleValue: reward}}
	span := &store.Span{
		TraceId:           newBytes(16),
		SpanId:            newBytes(8),
		Name:              "agentlightning.annotation",
		StartTimeUnixNano: uint64(begun.UnixNano()),
		EndTimeUnixNano:   uint64(time.Now().UnixNano()),
		Attributes: []*store.KeyValue{
			{Key: "agentlightning.reward.0.name", Value: name},
			{Key: "agentlightning.reward.0.value", Value: value},
		},
		RolloutId: attempt.RolloutId,
		AttemptId: attempt.AttemptId,
	}
	scope := &store.ScopeSpans{Spans: []*store.Span{span}}
	return &store.AddSpansRequest{ResourceSpans: []*store.ResourceSpans{{ScopeSpans: []*store.ScopeSpans{scope}}}}
}

func newBytes(length int) []byte {
	bytes := make([]byte, length)
	if _, err := rand.Read(bytes); err != nil {
		panic(err) // the system has no randomness
	}
	return bytes
}

func newID() string { return hex.EncodeToString(newBytes(16)) }
