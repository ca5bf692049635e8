"""The AgentCore provider, and the emulator that it is tried with."""
