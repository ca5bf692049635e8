"""Sandboxes on an executor (`jupyter sandbox serve`), here or on another machine, over gRPC."""
