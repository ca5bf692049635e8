"""The program that runs inside a sandbox. It imports nothing of ours but the link's protocol, which travels with it."""
