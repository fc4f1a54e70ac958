/** Takes what a runner has to say; the console is one. */
export type Logger = Pick<Console, "info" | "warn" | "error">;
