"""What the program can do, a module per verb; `sign_zs3.cli` picks one.

A verb is a module here with ``run(args) -> int``: the command line after the verb, and the exit code.
"""
