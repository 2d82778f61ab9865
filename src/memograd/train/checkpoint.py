"""Checkpoints: everything a run needs to go on as if it had never stopped, in one file, without pickle.

``checkpoint.safetensors`` holds the tensors (weights, optimizer state, states of the random number generators) and, in
its header, the rest as JSON: structure, scalars, epoch, history. One file is replaced in one step (``os.replace``), so
a kill at any moment leaves either the old epoch or the new one, never a mixture. ``model.safetensors`` beside it is a
copy of the weights for use elsewhere.

safetensors checks the layout of a file but not its bytes; a checksum over the tensors does that.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, optim

from memograd.errors import DataError

FILE = "checkpoint.safetensors"
WEIGHTS = "model.safetensors"
AVERAGED = "ema.safetensors"
_FORMAT = "memograd checkpoint 1"


def folder(path: str | Path) -> Path:
    """The folder at ``path``, which is made now rather than when an epoch is over.

    Raises:
        DataError: it cannot be.
    """
    where = Path(path)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {where}: {error}") from error
    return where


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (nested dicts, lists, tuples, scalars, tensors) to ``folder`` in one step.

    Raises:
        DataError: a value can be stored neither as JSON nor as a tensor, or the folder cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(state, "", tensors, {}))
    metadata = {"format": _FORMAT, "tree": tree, "sha256": _digest(tensors, tree)}
    _store(folder / FILE, tensors, metadata)


def load(folder: Path) -> dict[str, Any] | None:
    """The state that ``save`` wrote, or None when there is no checkpoint.

    Raises:
        DataError: the file is damaged, or is not a checkpoint.
    """
    path = folder / FILE
    if not path.exists():
        return None
    metadata, tensors = _read(path)
    if metadata.get("format") != _FORMAT:
        raise _damaged(path, f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
    if metadata.get("sha256") != _digest(tensors, metadata["tree"]):
        raise _damaged(path, "its checksum does not fit its content")
    return _decode(json.loads(metadata["tree"]), tensors)


def require(folder: Path, state: Any, fields: Mapping[str, type]) -> None:
    """Raises DataError where ``state``, which was read, has not these fields of these kinds."""
    for name, kind in fields.items():
        if not isinstance(state, dict) or not isinstance(state.get(name), kind):
            raise _damaged(folder / FILE, f"it has no {name!r} of a run")


def save_weights(folder: Path, model: nn.Module, called: str = WEIGHTS) -> None:
    """``model.safetensors``: each tensor once; names of tied ones are in the header (``safetensors.torch.load_model``
    and ``load_weights`` understand that)."""
    tensors: dict[str, torch.Tensor] = {}
    first: dict[int, str] = {}
    aliases = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            continue  # extra state of a module; the checkpoint has it
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = _plain(tensor)
    _store(folder / called, tensors, {"format": "pt", **aliases})


def load_weights(folder: Path, model: nn.Module, called: str = WEIGHTS) -> None:
    """Read ``model.safetensors`` (or ``ema.safetensors``) into ``model``.

    Raises:
        DataError: the file is missing or damaged, or belongs to another model.
    """
    path = folder / called
    metadata, tensors = _read(path)
    tensors.update({name: tensors[owner] for name, owner in metadata.items() if name != "format"})
    check_fits(path, model, tensors)
    model.load_state_dict(tensors)


def check_fits(path: Path, model: nn.Module, stored: dict[str, Any]) -> None:
    """Raises DataError when ``stored`` is not a state of ``model``."""
    own = model.state_dict()
    for name in dict.fromkeys([*own, *stored]):
        if name not in own or name not in stored:
            where = "model" if name not in own else "file"
            raise _mismatch(path, f"{name!r} is not in the {where}")
        ours, theirs = own[name], stored[name]
        if isinstance(ours, torch.Tensor) and (theirs.shape != ours.shape or theirs.dtype != ours.dtype):
            here, there = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (ours, theirs))
            raise _mismatch(path, f"{name!r} is {here} in the model and {there} in the file")


def restore(folder: Path, state: dict[str, Any], model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Put weights and optimizer state of a loaded checkpoint in place; nothing is changed unless both fit."""
    path = folder / FILE
    check_fits(path, model, state["model"])
    own, stored = optimizer.state_dict(), state["optimizer"]
    if not isinstance(stored.get("param_groups"), list) or not isinstance(stored.get("state"), dict):
        raise _damaged(path, "its 'optimizer' is no state of an optimizer")
    if state["optimizer_type"] != type(optimizer).__name__:
        raise _mismatch(path, f"it is a run with {state['optimizer_type']}, not {type(optimizer).__name__}")
    sizes = [[len(g["params"]) for g in s["param_groups"]] for s in (own, stored)]
    if sizes[0] != sizes[1]:
        raise _mismatch(path, f"the optimizer holds groups of {sizes[0]} parameters here and {sizes[1]} in the file")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(stored)


def random_state(loader: Any) -> dict[str, Any]:
    """The state of every generator a training run may draw from."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # the global one, which augmentations use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "loaders": [g.get_state() for g in _generators(loader)],
        "python": (version, torch.tensor(words), gauss),
        "numpy": (name, torch.tensor(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
    }


def restore_random(state: dict[str, Any], loader: Any) -> None:
    """Put every generator back where ``random_state`` found it."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    for generator, saved in zip(_generators(loader), state["loaders"], strict=False):
        generator.set_state(saved)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


def _generators(loader: Any) -> list[torch.Generator]:
    """Those of a DataLoader and of its samplers, each once."""
    holders = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    generators = [getattr(h, "generator", None) for h in holders]
    return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())


# -- nested values as JSON and tensors -----------------------------------------------------------------------------


def _encode(value: Any, path: str, tensors: dict[str, torch.Tensor], first_paths: dict[int, str]) -> Any:
    """JSON for ``value``; tensors go to ``tensors`` by path, one that occurs twice only once."""
    if isinstance(value, torch.Tensor):
        if id(value) not in first_paths:
            first_paths[id(value)] = path
            tensors[path] = _plain(value)
        return {"tensor": first_paths[id(value)]}
    if isinstance(value, dict):
        return {
            "dict": [[k, _encode(v, f"{path}/{k}" if path else str(k), tensors, first_paths)] for k, v in value.items()]
        }
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(v, f"{path}/{i}", tensors, first_paths) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError(f"cannot store {path!r} in a checkpoint: {type(value).__name__} is neither a tensor nor a number")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {k: _decode(v, tensors) for k, v in inner}
    items = [_decode(v, tensors) for v in inner]
    return tuple(items) if kind == "tuple" else items


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that owns its memory, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _digest(tensors: dict[str, torch.Tensor], tree: str) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        if tensors[name].numel():
            digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors of a file of safetensors, which is imported where it is used: the rest of the library is of
    use without it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _store(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its own, also for what the system refused
            raise OSError(str(error)) from error

    _write(path, write)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make the file beside its place, then put it there in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"cannot read {path}: {why}. Restore the file from a copy, or move it away and start without resume"
    )


def _mismatch(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} does not fit this run: {why}. Resume with the model and optimizer it was made with, or use another "
        "folder"
    )
