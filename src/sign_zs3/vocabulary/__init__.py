"""The classes of a trained model: added by name alone, renamed, removed, weighed."""

from sign_zs3.vocabulary.editing import remove, rename, save_model, weigh
from sign_zs3.vocabulary.extension import extend
from sign_zs3.vocabulary.self_training import self_train

__all__ = ["extend", "remove", "rename", "save_model", "self_train", "weigh"]
