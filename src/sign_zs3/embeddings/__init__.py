"""Class vectors: the semantic word embeddings of class names, from tables on disk or the bundled one."""

from sign_zs3.embeddings.build import Resolution, build_table, resolve
from sign_zs3.embeddings.readers import WordVectors, read_vectors
from sign_zs3.embeddings.spelling import canonical, words_of
from sign_zs3.embeddings.table import ClassTable, class_vectors, nearest

__all__ = [
    "ClassTable",
    "Resolution",
    "WordVectors",
    "build_table",
    "canonical",
    "class_vectors",
    "nearest",
    "read_vectors",
    "resolve",
    "words_of",
]
