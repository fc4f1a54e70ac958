"""The store server as a command: `python -m agentlightning.store_grpc`."""
