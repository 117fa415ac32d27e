"""The verbs that have a module of their own here, with their line in the help."""

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
