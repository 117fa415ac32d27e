"""Class vectors: the semantic word embeddings of class names, from tables on disk or the bundled one."""

from sign_zs3.embeddings.build import Resolution as Resolution
from sign_zs3.embeddings.build import build_table as build_table
from sign_zs3.embeddings.build import resolve as resolve
from sign_zs3.embeddings.nearest import nearest as nearest
from sign_zs3.embeddings.readers import WordVectors as WordVectors
from sign_zs3.embeddings.readers import read_vectors as read_vectors
from sign_zs3.embeddings.spelling import canonical as canonical
from sign_zs3.embeddings.spelling import words_of as words_of
from sign_zs3.embeddings.table import ClassTable as ClassTable
from sign_zs3.embeddings.table import class_vectors as class_vectors
