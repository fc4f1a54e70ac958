import { status as Code } from "@grpc/grpc-js";

import { StoreError } from "./errors.js";
import type { ResourceSpans } from "./gen/lightning_store/v1/span_pb.js";
import type { Store } from "./store.js";

/** Bytes of spans that make a good call. */
export const MOST_BYTES = 4 << 20;

// What is wrong with one attempt's spans must not be held against those of others.
const ONE_IS_AT_FAULT = new Set([Code.NOT_FOUND, Code.INVALID_ARGUMENT]);

interface Parcel {
  readonly spans: readonly ResourceSpans[];
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Sends spans of all attempts of a runner: those that arrive while a call is under way share the next one. */
export class SpanSender {
  readonly #store: Store;
  #waiting: Parcel[] = [];
  #sending = false;

  constructor(store: Store) {
    this.#store = store;
  }

  /**
   * Returns when the store has acknowledged spans of one attempt.
   *
   * @param bytes - How large they are.
   * @throws StoreError - It did not take them.
   */
  send(spans: readonly ResourceSpans[], bytes: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ spans, bytes, resolve, reject });
      if (!this.#sending) {
        void this.#sendAll();
      }
    });
  }

  async #sendAll(): Promise<void> {
    this.#sending = true;
    for (let parcels = this.#take(); parcels.length > 0; parcels = this.#take()) {
      await this.#deliver(parcels);
    }
    this.#sending = false;
  }

  #take(): Parcel[] {
    let bytes = 0;
    const count = this.#waiting.findIndex((parcel) => (bytes += parcel.bytes) > MOST_BYTES);
    return this.#waiting.splice(0, count === -1 ? this.#waiting.length : Math.max(count, 1));
  }

  async #deliver(parcels: readonly Parcel[]): Promise<void> {
    try {
      await this.#store.spans.addSpans({ resourceSpans: parcels.flatMap(({ spans }) => spans) });
      parcels.forEach(({ resolve }) => resolve());
    } catch (error) {
      if (parcels.length > 1 && error instanceof StoreError && ONE_IS_AT_FAULT.has(error.code)) {
        await Promise.all(parcels.map((parcel) => this.#deliver([parcel])));
      } else {
        parcels.forEach(({ reject }) => reject(error));
      }
    }
  }
}
