"""A stand-in for E2B, PPIO and Novita: their control plane and what answers inside a sandbox, on this machine."""
