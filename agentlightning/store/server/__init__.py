"""The store's gRPC server."""
