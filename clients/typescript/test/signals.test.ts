import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { AttemptFailureKind } from "../src/v1.js";
import { Algorithm } from "./algorithm.js";
import { Server } from "./server.js";

let server: Server;
before(async () => {
  server = await Server.start();
});
after(() => server.kill("SIGTERM"));

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} lets a runner finish what it holds, and when it comes again has it stopped and reported`, async () => {
    const algorithm = new Algorithm(server.address);
    await algorithm.publish();
    const [id] = (await algorithm.enqueue([0])) as [string];
    const script = fileURLToPath(new URL("signalled.js", import.meta.url));
    const runner = spawn(process.execPath, [script, server.address, algorithm.experiment], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const lines: string[] = [];
    for await (const line of createInterface({ input: runner.stdout })) {
      lines.push(line);
      if (line === "begun") {
        runner.kill(signal);
      } else if (line.endsWith(`leaves: ${signal}`)) {
        runner.kill(signal);
        runner.kill(signal);
      }
    }
    const [code] = runner.exitCode === null ? await once(runner, "exit") : [runner.exitCode];
    assert.equal(code, 0);
    assert.equal(lines.at(-1), "took 1");
    const { failure } = await algorithm.attempt(id);
    assert.deepEqual([failure?.kind, failure?.message], [AttemptFailureKind.CANCELLED, signal]);
  });
}
