import { Runner } from "../src/index.js";

// Runs one rollout and gives back its input.
const [address = "", experiment] = process.argv.slice(2);
await new Runner({ address, experiment, maxRollouts: 1 }).run(({ input }) => input as object);
