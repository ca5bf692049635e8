"""Tests of the kernel in a real JupyterLab in a real Chromium."""
