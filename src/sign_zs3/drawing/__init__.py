"""Pictures: arrays in, figures and images out. Nothing here runs a model or reads a data set."""
