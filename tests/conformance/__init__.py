"""Other projects' tests, run against the kernel: how it shows that it behaves as ipykernel does.

Three suites: `jupyter_kernel_test` from its package, ipykernel's and nbclient's own tests from their source
distributions, which pip fetches once into pytest's cache (none of their files is kept here). Every upstream test is one
test here. The kernel is the installed kernelspec that the environment variable `SANDBOX_KERNEL_UNDER_TEST` names,
`sandbox` by default; `python3` runs everything against ipykernel itself. What is left out, and why, stands in
`exceptions.py` and is printed at the end of each run.
"""
