import { Console } from "node:console";
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";

import { AttemptRun, Turns } from "./attempt-run.js";
import { Claims } from "./claims.js";
import type { Claim } from "./gen/lightning_store/v1/rollout_service_pb.js";
import type { WorkerCommand } from "./gen/lightning_store/v1/worker_pb.js";
import { beat } from "./heartbeat.js";
import { HeldAttempts } from "./held-attempts.js";
import type { Logger } from "./logger.js";
import type { Json } from "./payload.js";
import { ResourcesCache } from "./resources.js";
import { SpanSender } from "./span-sender.js";
import { connect, type StoreOptions } from "./store.js";
import type { Agent } from "./task.js";

/** What a runner is told. */
export interface RunnerOptions extends StoreOptions {
  /** What the store is to call this runner, unique among those that work at once; made from host and process unless given. */
  readonly workerId?: string | undefined;
  /** How many rollouts to run at once, 1 to 1,000; 1 unless given. */
  readonly concurrency?: number | undefined;
  /** How many rollouts to run before leaving; no limit unless given. */
  readonly maxRollouts?: number | undefined;
  /** How long one request for work waits at the store, which answers as soon as there is some; 5,000 ms unless given. */
  readonly pollMs?: number | undefined;
  /** Time between two heartbeats. Claims are leased for three of them, 5 s at least; 10,000 ms unless given. */
  readonly heartbeatMs?: number | undefined;
  /** What rollouts at work get to finish when the runner is told to stop; 10,000 ms unless given. */
  readonly graceMs?: number | undefined;
  /** What an agent that is aborted gets to clean up before it is left to itself; 5,000 ms unless given. */
  readonly stopGraceMs?: number | undefined;
  /** Whether SIGTERM and SIGINT stop the runner, and abort it when they come again; true unless given. */
  readonly handleSignals?: boolean | undefined;
  /** Who hears what the runner has to say, such as `console`; standard error unless given. */
  readonly logger?: Logger | undefined;
}

const MOST_AT_ONCE = 1_000;
const LEASE_INTERVALS = 3;
const SHORTEST_LEASE_MS = 5_000;
const LONGEST_LEASE_MS = 86_400_000;
const LONGEST_POLL_MS = 60_000;
const SIGNALS = ["SIGTERM", "SIGINT"] as const;

/**
 * Takes rollouts from a store, runs an agent on them, and reports.
 *
 * Work is claimed by long poll and under a lease, which heartbeats renew; no more than there are free slots for.
 */
export class Runner {
  readonly workerId: string;
  readonly #options: RunnerOptions;
  readonly #concurrency: number;
  readonly #logger: Logger;
  readonly #held = new HeldAttempts();
  readonly #leaving = new AbortController();
  #grace: NodeJS.Timeout | undefined;
  #running = false;

  /** @throws RangeError - `concurrency` is out of range. */
  constructor(options: RunnerOptions) {
    const { concurrency = 1, logger = new Console(process.stderr), workerId } = options;
    if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > MOST_AT_ONCE) {
      throw new RangeError(`concurrency must be from 1 to ${MOST_AT_ONCE}, not ${concurrency}`);
    }
    this.workerId = workerId ?? `node-${hostname()}-${process.pid}-${randomBytes(2).toString("hex")}`;
    this.#options = options;
    this.#concurrency = concurrency;
    this.#logger = logger;
  }

  /**
   * Runs an agent on rollouts until `stop`, a signal or the store says to leave, or `maxRollouts` are done. For once only.
   *
   * What the agent throws fails its attempt and not the runner. An agent that computes without awaiting stops the
   * heartbeats too: move such work to a worker thread.
   *
   * @returns The number of rollouts that it took.
   * @throws StoreError - The store refused work, or could not be reached for five minutes; rollouts at work have been
   *   finished.
   */
  async run<Input = Json>(agent: Agent<Input>): Promise<number> {
    if (this.#running) {
      throw new Error("a runner runs once; make another");
    }
    this.#running = true;
    const { pollMs = 5_000, heartbeatMs = 10_000, stopGraceMs = 5_000, handleSignals = true } = this.#options;
    const store = connect(this.#options);
    const resources = new ResourcesCache();
    const leaseMs = Math.min(Math.max(LEASE_INTERVALS * heartbeatMs, SHORTEST_LEASE_MS), LONGEST_LEASE_MS);
    const waitMs = Math.min(pollMs, LONGEST_POLL_MS);
    const claims = new Claims(store, this.workerId, waitMs, leaseMs, resources, this.#logger);
    const sender = new SpanSender(store);
    const parts = { store, sender, resources, turns: new Turns(), stopGraceMs, logger: this.#logger };
    const done = new AbortController();
    const obey = (command: WorkerCommand["command"]) => this.#obey(command);
    const beating = beat(store, this.workerId, this.#held, heartbeatMs, obey, this.#logger, done.signal);
    const onSignal = (name: NodeJS.Signals) => (this.#grace === undefined ? this.stop(name) : this.abort(name));
    const signals = handleSignals ? SIGNALS : [];
    signals.forEach((name) => process.on(name, onSignal));
    try {
      return await this.#work(
        claims,
        ({ rollout, attempt }) => rollout && attempt && new AttemptRun(rollout, attempt, agent, parts),
      );
    } finally {
      signals.forEach((name) => process.off(name, onSignal));
      clearTimeout(this.#grace);
      done.abort();
      await beating;
      store.close();
    }
  }

  /** Takes nothing more, hands back what is not begun, lets the rest finish for `graceMs`, and aborts what is left. */
  stop(reason = "the runner was stopped"): void {
    this.#leave(reason);
    this.#grace ??= setTimeout(() => this.abort(reason), this.#options.graceMs ?? 10_000).unref();
  }

  /** Takes nothing more, and has the agents at work stopped and their attempts reported as cancelled. */
  abort(reason = "the runner was aborted"): void {
    this.#leave(reason);
    this.#held.stopAll(reason);
  }

  #leave(reason: string): void {
    if (!this.#leaving.signal.aborted) {
      this.#logger.info(`${this.workerId} leaves: ${reason}`);
      this.#leaving.abort(new Error(reason));
    }
  }

  /** Fills the free slots until it is told to leave, lets the rest finish, and returns the number of rollouts. */
  async #work(claims: Claims, runOf: (claim: Claim) => AttemptRun | undefined): Promise<number> {
    const { signal } = this.#leaving;
    const most = this.#options.maxRollouts ?? Infinity;
    let running = 0;
    let taken = 0;
    let freed = () => {};
    let refusal: unknown;
    for (;;) {
      const free = refusal !== undefined || signal.aborted ? 0 : Math.min(this.#concurrency - running, most - taken);
      if (free > 0) {
        const answer = await claims.take(free, signal).catch((error: unknown) => {
          refusal = error; // thrown when what runs has ended
        });
        if (answer?.draining) {
          this.#leave("the store asked for it");
        }
        for (const claim of answer?.claims ?? []) {
          taken += 1;
          running += 1;
          void this.#perform(runOf(claim)).then(() => {
            running -= 1;
            freed();
          });
        }
      } else if (running > 0) {
        await new Promise<void>((resolve) => (freed = resolve));
      } else {
        break;
      }
    }
    if (refusal !== undefined) {
      throw refusal;
    }
    return taken;
  }

  async #perform(run: AttemptRun | undefined): Promise<void> {
    if (run === undefined) {
      return;
    }
    this.#held.add(run.key, (reason) => run.stop(reason));
    try {
      await run.run();
    } finally {
      this.#held.delete(run.key);
    }
  }

  #obey(command: WorkerCommand["command"]): void {
    if (command.case === "cancelAttempt") {
      this.#held.stop(command.value, command.value.reason);
    } else if (command.case === "drain") {
      this.#leave(command.value.reason);
    }
  }
}
