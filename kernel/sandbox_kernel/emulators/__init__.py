"""Services that speak their vendors' protocols over real HTTP, for tests and for work without an account."""
