"""The classes of a trained model: added by name alone, renamed, removed."""

from sign_zs3.vocabulary.extension import extend, remove, rename, save_model, self_train

__all__ = ["extend", "remove", "rename", "save_model", "self_train"]
