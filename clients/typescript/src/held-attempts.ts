/** The key of an attempt. */
export interface AttemptKey {
  readonly rolloutId: string;
  readonly attemptId: string;
}

/** The attempts that a runner holds, and how each of them is told to stop. */
export class HeldAttempts {
  readonly #stops = new Map<string, { readonly key: AttemptKey; readonly stop: (reason: string) => void }>();

  get size(): number {
    return this.#stops.size;
  }

  add(key: AttemptKey, stop: (reason: string) => void): void {
    this.#stops.set(text(key), { key, stop });
  }

  delete(key: AttemptKey): void {
    this.#stops.delete(text(key));
  }

  keys(): AttemptKey[] {
    return [...this.#stops.values()].map(({ key }) => key);
  }

  /** Has an attempt stopped, if it is held. */
  stop(key: AttemptKey, reason: string): void {
    this.#stops.get(text(key))?.stop(reason);
  }

  stopAll(reason: string): void {
    for (const { stop } of [...this.#stops.values()]) {
      stop(reason);
    }
  }
}

function text({ rolloutId, attemptId }: AttemptKey): string {
  return `${rolloutId}/${attemptId}`; // ids hold no slashes
}
