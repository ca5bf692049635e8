"""Services that speak their vendors' protocols over real sockets, so that unmodified clients accept them."""
