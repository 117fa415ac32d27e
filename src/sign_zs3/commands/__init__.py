"""What the program can do, a module per verb; `sign_zs3.cli` picks one.

A verb is a module here with ``run(args) -> int``: the command line after the verb, and the exit code.
"""

VERBS = {
    "data": "check a data set file by file, or draw a contact sheet of it",
    "demo": "try a checkpoint in the browser: upload, overlay, classes added by name",
    "embed": "build class vectors from word vectors, or show which classes lie near each other",
    "export": "write a model as ONNX, torch.export, or a folder with a model card",
    "extend": "add classes to a trained checkpoint by their names alone",
    "remove": "take classes out of a checkpoint",
    "rename": "give classes of a checkpoint other names",
    "results": "gather the scores of runs into tables and pictures, beside the paper's numbers",
}
"""Verbs beside those of `commands.training`, with their line in the help."""
