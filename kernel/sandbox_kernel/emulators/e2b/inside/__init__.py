"""What answers inside an emulated sandbox. It runs there, copied, and imports nothing of ours."""
