import { Runner } from "agentlightning-grpc";

// Earns more, the nearer the published prompt is to the input.
const runner = new Runner({ address: process.argv[2] ?? "127.0.0.1:4747", concurrency: 4 });

await runner.run<number>(async ({ input, resources, tracer }) =>
  tracer.startActiveSpan("guess", (span) => {
    const guess = Number(resources.promptTemplate().format());
    span.setAttribute("guess", guess).end();
    return 1 / (1 + Math.abs(input - guess));
  }),
);
