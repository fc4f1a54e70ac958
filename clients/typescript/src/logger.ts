/** Takes what a runner has to say, one line each; a console is one. */
export type Logger = Pick<Console, "info" | "warn" | "error">;
