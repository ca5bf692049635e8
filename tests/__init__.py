"""All tests; each folder says which."""

import os

# As the executor provider has it; gRPC reads it when it is imported, and some tests do that before.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
