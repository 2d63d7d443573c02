"""Modules that import on first use, so that `--help` does not wait for TensorFlow."""

from __future__ import annotations

import importlib
import types


class _LazyModule(types.ModuleType):
    """Stands for a module until one of its names is asked for."""

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)  # inspection (pickle, doctest, pytest) must not import
        return getattr(importlib.import_module(self.__name__), name)


def lazy_import(name: str) -> types.ModuleType:
    """A stand-in for module `name` that imports it when an attribute is first read."""
    return _LazyModule(name)
