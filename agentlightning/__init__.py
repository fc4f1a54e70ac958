"""Train AI agents over a gRPC store."""
