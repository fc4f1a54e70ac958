import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

import { isMissingExperiment } from "./errors.js";
import type { WorkerCommand } from "./gen/lightning_store/v1/worker_pb.js";
import type { HeldAttempts } from "./held-attempts.js";
import type { Logger } from "./logger.js";
import { toPayload } from "./payload.js";
import { aboutAsLong } from "./retries.js";
import type { Store } from "./store.js";

/**
 * Tells the store, at once and then again and again, that a worker lives and which attempts it holds.
 *
 * @param onCommand - Takes what the store answers, repeatedly for the same command.
 * @param signal - Ends it.
 */
export async function beat(
  store: Store,
  workerId: string,
  held: HeldAttempts,
  intervalMs: number,
  onCommand: (command: WorkerCommand["command"]) => void,
  logger: Logger,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const request = {
        workerId,
        heldAttempts: held.keys(),
        heartbeatStats: toPayload(stats(held), "heartbeat_stats"),
      };
      // A late answer tells nothing that the next one does not.
      const { commands } = await store.workers.updateWorker(request, { signal, timeoutMs: intervalMs });
      commands.forEach(({ command }) => onCommand(command));
    } catch (error) {
      // Whoever claims says that the experiment is missing, and says it once.
      if (!signal.aborted && !isMissingExperiment(error)) {
        logger.warn(`heartbeat of ${workerId} failed: ${String(error)}`);
      }
    }
    await sleep(aboutAsLong(intervalMs), undefined, { signal }).catch(() => undefined);
  }
}

function stats(held: HeldAttempts): Record<string, string | number> {
  const { heapUsed, rss } = process.memoryUsage();
  return {
    runtime: `node ${process.versions.node}`,
    host: hostname(),
    pid: process.pid,
    rss_bytes: rss,
    heap_used_bytes: heapUsed,
    held: held.size,
  };
}
