"""Images, masks and the order in which training sees them.

`protocol` holds class splits, `datasets` the readers, `stream` the counter-based order, `transforms` the
presets and `datamodules` what a Trainer asks for. Nothing is imported here, so that reading a class split
costs nothing.
"""
