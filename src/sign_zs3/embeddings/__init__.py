"""Class vectors: the semantic word embeddings of class names, from tables on disk or the bundled one."""

from sign_zs3.embeddings.build import build_table, read_text_vectors
from sign_zs3.embeddings.spelling import canonical, words_of
from sign_zs3.embeddings.table import ClassTable

__all__ = ["ClassTable", "build_table", "canonical", "read_text_vectors", "words_of"]
