"""How long a step takes on each backend, or an operator by each algorithm, measured once for each machine and kept on
disk.

A record is found again by everything that the times depend on: the operators, the geometry of inputs, this library's
backends, PyTorch, the devices, the number of threads. It lies beside the libraries of the native backend.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from memograd import c_compiler
from memograd._torch import float32_precisions
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.printing import flat_function
from memograd.run.pool.library import POOL


@dataclass
class Record:
    """What is known of one graph.

    Attributes:
        seconds: a step takes, by backend.
        compiling: seconds that it took to make the backend ready, the last time.
        failed: why a backend cannot run the graph, on whatever machine.
        path: where this is kept; None: nowhere.
        earlier: whether it was there before this process measured anything.
    """

    path: Path | None
    seconds: dict[str, float] = field(default_factory=dict)
    compiling: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    earlier: bool = False

    @classmethod
    def of(cls, graph: Graph) -> Record:
        """What was written about ``graph``; nothing where nothing was, or where it cannot be read."""
        return cls._named(fingerprint(graph))

    @classmethod
    def of_operator(cls, text: str) -> Record:
        """The same of one operator on the CPU, which ``text`` describes with all its sizes."""
        return cls._named(_hashed([text, *surroundings({torch.device("cpu")})]))

    @classmethod
    def _named(cls, name: str) -> Record:
        try:
            path = c_compiler.cache_folder() / f"times-{name}.json"
        except BackendError:
            return cls(None)
        record = cls(path)
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            times = json.loads(path.read_text(encoding="utf-8"))
            seconds = {str(k): float(v) for k, v in times["seconds"].items()}
            compiling = {str(k): float(v) for k, v in times["compiling"].items()}
            failed = {str(k): str(v) for k, v in times["failed"].items()}
            c_compiler.used(path)
            return cls(path, seconds, compiling, failed, earlier=True)
        return record

    def keep(self) -> None:
        """Write it; a folder that cannot be written to means that the next process measures again."""
        if self.path is None:
            return
        text = json.dumps({k: v for k, v in asdict(self).items() if k not in ("path", "earlier")})
        with contextlib.suppress(OSError):
            c_compiler.tidy(self.path.parent)
            handle, own = tempfile.mkstemp(prefix=c_compiler.UNFINISHED, dir=self.path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(own, self.path)  # at once: another process reads all of it or nothing
            except BaseException:
                os.remove(own)  # the disk may be full, and Ctrl-C may come
                raise


def fingerprint(graph: Graph) -> str:
    """A name for ``graph`` on this machine, as the times of its backends depend on it."""
    values = [n.meta["val"] for n in graph.placeholders]
    inputs = [
        (i.kind, tuple(v.shape), v.stride() if v.layout is torch.strided else (), str(v.dtype), str(v.device))
        for i, v in zip(graph.inputs, values, strict=True)
    ]
    text = flat_function("graph", list(graph.placeholders), graph.nodes, list(graph.results))
    outputs = [(o.kind, o.name) for o in graph.outputs]
    parts = [text, str(inputs), str(outputs), *surroundings({v.device for v in values})]
    return _hashed(parts)


def _hashed(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def surroundings(devices: set[Any]) -> list[str]:
    """What else the times depend on."""
    names = [torch.cuda.get_device_name(d) if d.type == "cuda" else d.type for d in sorted(devices, key=str)]
    settings: list[Any] = [
        torch.__version__,
        torch.get_num_threads(),
        float32_precisions(),
        torch.are_deterministic_algorithms_enabled(),
        c_compiler.compiler(),
        POOL.look() is not None,
    ]
    return [_own_text(), c_compiler.machine(), *names, *map(str, settings)]


@cache
def _own_text() -> str:
    """The texts of the backends: what was measured with others is not used."""
    files = sorted(p for p in Path(__file__).parent.rglob("*") if p.suffix in (".py", ".cpp", ".c"))
    files.append(Path(c_compiler.__file__))  # its flags
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()
