import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";

const REPOSITORY = fileURLToPath(new URL("../../../../", import.meta.url));
const PYTHON = process.env["AGL_TEST_PYTHON"] ?? `${REPOSITORY}.venv/bin/python`;
const READY = /^agentlightning store listening on (\S+):(\d+) /;

/** A store server in a process of its own, that can be killed and started again on the same port. */
export class Server {
  address = "";
  #port = "0";
  #process: ChildProcess | undefined;

  constructor(private readonly store = "memory://") {}

  static async start(store?: string): Promise<Server> {
    const server = new Server(store);
    await server.start();
    return server;
  }

  async start(): Promise<void> {
    const options = [
      "-m",
      "agentlightning.store_grpc",
      "--store",
      this.store,
      "--port",
      this.#port,
      "--log-level",
      "ERROR",
    ];
    const started = spawn(PYTHON, options, { stdio: ["ignore", "pipe", "inherit"] });
    this.#process = started;
    for await (const line of createInterface({ input: started.stdout })) {
      const [, host, port] = READY.exec(line) ?? [];
      if (host !== undefined && port !== undefined) {
        this.address = `${host}:${port}`;
        this.#port = port;
        return;
      }
    }
    throw new Error(`the server did not start: ${PYTHON} ${options.join(" ")}`);
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const running = this.#process;
    this.#process = undefined;
    if (running !== undefined && running.exitCode === null) {
      running.kill(signal);
      await once(running, "exit");
    }
  }
}
