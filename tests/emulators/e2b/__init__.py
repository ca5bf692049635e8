"""The emulator of E2B and PPIO, as a process of its own for tests (`process.py`), and its own tests' helpers."""
