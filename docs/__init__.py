"""The documentation's machinery; `make docs` runs it."""
