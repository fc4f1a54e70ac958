import type { Store } from "./store.js";
import { StoreError } from "./errors.js";
import type { Attempt } from "./gen/lightning_store/v1/attempt_pb.js";
import type { LLM, NamedResource, Resources } from "./gen/lightning_store/v1/resources_pb.js";
import type { Rollout } from "./gen/lightning_store/v1/rollout_pb.js";
import { fromPayload, type Json } from "./payload.js";

/** A model behind an OpenAI-compatible endpoint. */
export interface Llm {
  readonly kind: "llm";
  /** Where this attempt's calls go. Behind the gateway it names the attempt, so that the calls are recorded with it. */
  readonly baseUrl: string;
  /** Model name to send in requests. */
  readonly model: string;
  /** Key to send to the endpoint, if it needs one. */
  readonly apiKey: string | undefined;
  /** Sampling parameters, such as `{temperature: 0.7}`. */
  readonly samplingParameters: { readonly [name: string]: Json };
}

/** A prompt with places to fill in. */
export interface PromptTemplate {
  readonly kind: "prompt_template";
  /** The text with its places. */
  readonly template: string;
  /** Template language: `f-string`, `jinja` or `poml`. */
  readonly engine: string;
  /**
   * Fills the places of an f-string template: `{name}`, with `{{` and `}}` for braces.
   *
   * @throws TypeError - It is of another engine, a place has no value, or has a format of its own.
   */
  format(values?: Readonly<Record<string, unknown>>): string;
}

/** A resource of a type that the contract does not know. */
export interface CustomResource {
  readonly kind: "custom";
  /** The publisher's name for the type. */
  readonly resourceType: string;
  readonly body: Json;
}

/** Something that an algorithm improves and agents use. */
export type Resource = Llm | PromptTemplate | CustomResource;

/** Thrown when the resources of a rollout do not exist, or lack one that the agent needs. */
export class MissingResourceError extends Error {
  override name = "MissingResourceError";
}

/** The resources of one attempt, in the publisher's order. */
export class NamedResources extends Map<string, Resource> {
  /**
   * Returns the model of a name, or the first one.
   *
   * @throws MissingResourceError - There is none, which fails the attempt as MISSING_RESOURCES.
   */
  llm(name?: string): Llm {
    return this.#find("llm", name);
  }

  /**
   * Returns the prompt of a name, or the first one.
   *
   * @throws MissingResourceError - There is none, which fails the attempt as MISSING_RESOURCES.
   */
  promptTemplate(name?: string): PromptTemplate {
    return this.#find("prompt_template", name);
  }

  #find<K extends Resource["kind"]>(kind: K, name: string | undefined): Extract<Resource, { kind: K }> {
    for (const [key, resource] of this) {
      if (resource.kind === kind && (name === undefined || key === name)) {
        return resource as Extract<Resource, { kind: K }>;
      }
    }
    const wanted = name === undefined ? `no resource of the kind ${kind}` : `no ${kind} named "${name}"`;
    throw new MissingResourceError(`there is ${wanted} among the resources: ${[...this.keys()].join(", ") || "none"}`);
  }
}

const MOST_KEPT = 16;

/**
 * Sets of resources as they came with claims.
 *
 * A claim brings every set that its rollouts name and that the runner does not know in its current version. So a set that
 * is here and did not come along is current.
 */
export class ResourcesCache {
  readonly #sets = new Map<string, Resources>();

  /** Returns which version of each set is here. */
  known(): { resourcesId: string; version: bigint }[] {
    return [...this.#sets.values()].map(({ resourcesId, version }) => ({ resourcesId, version }));
  }

  /** Keeps sets that came with a claim. */
  take(sets: readonly Resources[]): void {
    for (const set of sets) {
      this.#sets.delete(set.resourcesId);
      this.#sets.set(set.resourcesId, set);
    }
    for (const oldest of this.#sets.keys()) {
      if (this.#sets.size <= MOST_KEPT) {
        break;
      }
      this.#sets.delete(oldest);
    }
  }

  /**
   * Returns the resources of an attempt; the signal ends the wait for them.
   *
   * @throws MissingResourceError - The store does not have them.
   * @throws StoreError - The store could not be asked.
   */
  async resourcesFor(rollout: Rollout, attempt: Attempt, store: Store, signal: AbortSignal): Promise<NamedResources> {
    const { resourcesId } = rollout;
    const known = resourcesId === undefined ? undefined : this.#sets.get(resourcesId);
    const asked = () =>
      resourcesId === undefined
        ? store.resources.getLatestResources({}, { signal })
        : store.resources.getResources({ resourcesId }, { signal });
    const set = known ?? (await asked().then(({ resources }) => resources, absent));
    if (set === undefined) {
      throw new MissingResourceError(
        resourcesId === undefined
          ? "the store holds no resources: publish some before rollouts run; an empty set will do for an agent that needs none"
          : `the store has no resources ${resourcesId}`,
      );
    }
    return new NamedResources(set.resources.map((named) => [named.name, read(named, attempt)]));
  }
}

function absent(error: unknown): undefined {
  if (error instanceof StoreError && ["RESOURCES_NOT_FOUND", "NO_RESOURCES"].includes(error.reason)) {
    return undefined;
  }
  throw error;
}

function read({ name, resource }: NamedResource, attempt: Attempt): Resource {
  const kind = resource?.kind;
  switch (kind?.case) {
    case "llm":
      return readLlm(kind.value, kind.value.endpoint, name);
    case "proxyLlm": {
      const llm = kind.value.llm;
      if (llm === undefined) {
        break;
      }
      return readLlm(llm, attemptUrl(llm.endpoint, attempt), name);
    }
    case "promptTemplate": {
      const { template, engine } = kind.value;
      return { kind: "prompt_template", template, engine, format: (values) => format(template, engine, values ?? {}) };
    }
    case "custom":
      return { kind: "custom", resourceType: kind.value.resourceType, body: fromPayload(kind.value.body, name) };
  }
  throw new MissingResourceError(`resource "${name}" is of a kind that this release does not know`);
}

function readLlm({ model, apiKey, samplingParameters }: LLM, baseUrl: string, name: string): Llm {
  const parameters = fromPayload(samplingParameters, `sampling_parameters of ${name}`) ?? {};
  return { kind: "llm", baseUrl, model, apiKey, samplingParameters: parameters as Llm["samplingParameters"] };
}

function attemptUrl(endpoint: string, { rolloutId, attemptId }: Attempt): string {
  const [, prefix, version] = /^(.*?)(\/v1)?\/?$/.exec(endpoint) ?? [];
  const place = `/rollout/${encodeURIComponent(rolloutId)}/attempt/${encodeURIComponent(attemptId)}`;
  return `${prefix ?? endpoint}${place}${version ?? ""}`;
}

const PLACES = /\{\{|\}\}|\{([^{}]*)\}|[{}]/g;

function format(template: string, engine: string, values: Readonly<Record<string, unknown>>): string {
  if (engine !== "f-string") {
    throw new TypeError(`this client fills in f-string templates only, not ${engine}; take .template and render it`);
  }
  return template.replace(PLACES, (place, name: string | undefined) => {
    if (place === "{{" || place === "}}") {
      return place.charAt(0);
    }
    if (name === undefined || !Object.hasOwn(values, name)) {
      throw new TypeError(
        `the template has ${JSON.stringify(place)}, and there are values for: ${Object.keys(values).join(", ")}`,
      );
    }
    return String(values[name]);
  });
}
