"""What a kernel process and an executor say to each other: `executor.proto`, its generated code, and the rest."""

DEFAULT_PORT = 8733
