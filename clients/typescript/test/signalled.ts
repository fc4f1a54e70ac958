import { aborted } from "./algorithm.js";
import { Runner } from "../src/index.js";

// Holds one rollout until it is told to stop; says when it has begun.
const [address = "", experiment] = process.argv.slice(2);
const runner = new Runner({ address, experiment, graceMs: 60_000, logger: console });
const taken = await runner.run(async ({ signal }) => {
  process.stdout.write("begun\n");
  await aborted(signal);
});
process.stdout.write(`took ${taken}\n`);
