"""`StoreApi` over gRPC."""
