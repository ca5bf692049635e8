"""What a cell must not be able to do, tried: outside the sandbox, where it works, and in a cell, where it must not."""
