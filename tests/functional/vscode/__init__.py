"""What VS Code's Jupyter extension asks of a kernel."""
