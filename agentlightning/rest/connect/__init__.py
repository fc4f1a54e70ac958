"""The contract over plain HTTP, by the Connect protocol (https://connectrpc.com/docs/protocol)."""
