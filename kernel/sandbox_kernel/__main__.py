"""Starts the kernel: `python -m sandbox_kernel -f CONNECTION_FILE`."""

import gc

# Nothing is garbage while modules are imported, and looking for it takes a tenth of the start. `serve` enables it.
gc.disable()

from .app import main  # noqa: E402

if __name__ == "__main__":
    main()
