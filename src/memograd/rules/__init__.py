"""The derivative table. Importing this package fills it: every module of a family enters its rules."""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    if not _module.name.rpartition(".")[2].startswith("_"):
        import_module(_module.name)
