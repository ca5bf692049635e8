"""The command `jupyter sandbox`. One file per family of subcommands; `main.py` puts them together."""
