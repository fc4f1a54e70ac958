// Command guess runs an agent that earns more, the nearer the published prompt is to the target.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"agentlightning/runner"
)

func main() {
	address := flag.String("address", "127.0.0.1:4747", "host:port of the store")
	experiment := flag.String("experiment", "", "experiment; `default` if empty")
	worker := flag.String("worker", fmt.Sprintf("go-%d", os.Getpid()), "name of this runner")
	concurrency := flag.Int("concurrency", 4, "rollouts at once")
	flag.Parse()
	connection, err := grpc.Dial(*address, grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	options := runner.Options{WorkerID: *worker, Experiment: *experiment, Concurrency: *concurrency, Heartbeat: time.Second}
	if err := runner.Run(ctx, connection, options, guess); err != nil {
		log.Fatal(err)
	}
}

func guess(ctx context.Context, task runner.Task) (float64, error) {
	var question struct{ Target, Seconds float64 }
	if err := json.Unmarshal(task.Input, &question); err != nil {
		return 0, err
	}
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(time.Duration(question.Seconds * float64(time.Second))):
	}
	for _, named := range task.Resources {
		if prompt := named.Resource.GetPromptTemplate(); prompt != nil {
			number, err := strconv.ParseFloat(prompt.Template, 64)
			return 1 / (1 + math.Abs(question.Target-number)), err
		}
	}
	return 0, fmt.Errorf("there is no prompt: %w", runner.ErrMissingResource)
}
