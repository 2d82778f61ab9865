"""Several processes with a gloo group between them, as `torchrun` starts them, forked from a server that has imported
everything: a test takes a fraction of a second."""

from __future__ import annotations

import importlib.util
import io
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch.distributed.fsdp", "torch.nn.parallel", "memograd", "pytest"])


def together(function: Callable[..., Any], *args: Any, count: int = 2, timeout: float = 60) -> list[Any]:
    """What ``function(*args)``, which stands in a test file, returns in each of ``count`` processes, by rank.

    Raises:
        AssertionError: one of them raised; it says what.
    """
    code = function.__code__
    with tempfile.TemporaryDirectory() as folder:
        pipes, running = [], []
        for rank in range(count):
            here, there = _CONTEXT.Pipe()
            call = (code.co_filename, function.__name__, args, rank, count, f"file://{folder}/store", timeout)
            process = _CONTEXT.Process(target=_one, args=(there, *call), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            running.append(process)
        try:
            answers = [_answer(pipe, timeout) for pipe in pipes]
        finally:
            for process in running:
                process.join(1)
                process.kill()
    failures = [f"process {rank}: {what}" for rank, (done, what) in enumerate(answers) if not done]
    assert not failures, "\n".join(failures)
    return [torch.load(io.BytesIO(what), weights_only=False) for _, what in answers]


def _answer(pipe: Any, timeout: float) -> tuple[bool, Any]:
    try:
        return pipe.recv() if pipe.poll(timeout) else (False, "no answer in time")
    except EOFError:
        return False, "ended without an answer"


def _one(pipe: Any, file: str, name: str, args: Any, rank: int, count: int, store: str, timeout: float) -> None:
    torch.set_num_threads(1)
    try:
        limit = timedelta(seconds=timeout / 2)
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=limit)
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        memory = io.BytesIO()
        torch.save(getattr(module, name)(*args), memory)
        pipe.send((True, memory.getvalue()))
        distributed.destroy_process_group()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        raise
