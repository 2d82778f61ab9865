"""Models of ``transformers`` that nobody named: each type that the library lists, made small by rule, against PyTorch.

python tests/sweeps/automatic.py [TYPE ...] [--count N] [--in-turn] [--log FILE] [--record]   prints what autograd
trains, and of that pass, refused (why), mismatch, wrong, crash or slow; fails on the last four

Sizes go by the names of a configuration's fields, inputs by the names of ``forward``'s arguments (``by_rule/``). Only
what plain PyTorch trains counts. Each type runs in a process of its own. ``--record`` writes a section of
``docs/models.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from sweeps.by_rule.recipes import Recipe, UntrainedError, case, classes, recipe
from sweeps.foreign import WAYS, Course, _tensors, by_loop, by_step, default_of, placed
from sweeps.models import PAGE, ROOT, _said

import memograd as mg
from memograd.errors import GradientMismatchError, MemogradError

TITLE = "## Types drawn at random"
SEED = 20
SECONDS = 60  # of the processor, for a type
PATIENCE = 8  # how much longer it may take on a busy machine
BAD = ("mismatch", "wrong", "crash", "slow")
PARTLY = 2e-6  # the tolerance where a model in float64 computes in float32 in part
NOISE = 1e-4  # a gradient that is smaller than this part of the largest is compared with it
Tensors = dict[str, torch.Tensor]


def model_types() -> list[str]:
    """All that the library lists a model for; the others are parts of these."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return sorted(name for name in CONFIG_MAPPING_NAMES if next(classes(name), None))


def sample(count: int) -> list[str]:
    """``count`` types, always the same."""
    types = model_types()
    random.Random(SEED).shuffle(types)
    return types[:count]


def results(model_type: str, ways: Sequence[str] = WAYS) -> Iterator[tuple[str, str]]:
    """``(what, value)`` as they come: how it was made, or why it does not train, and how each way comes out."""
    try:
        at = recipe(model_type)
        made = case(at)
        start = _copies(made)
        with default_of(made):
            theirs = by_loop(made)
    except UntrainedError as error:
        yield "untrained", str(error)
        return
    except Exception as error:
        yield "untrained", _said(error)
        return
    yield "trains", f"{at.model_class}, {at.sizes}, {', '.join(made.kwargs)}, {str(at.dtype).split('.')[1]}"
    for way in ways:
        yield way, _outcome(way, at, start, theirs)


def _outcome(way: str, at: Recipe, start: Tensors, theirs: Course) -> str:
    made = case(at)
    with torch.no_grad():
        for name, tensor in _tensors(made):
            tensor.copy_(start[name])
    try:
        with default_of(made):
            if way == "wrap":
                mg.wrap(made.model, backend="eager")
                ours = by_loop(made)
            else:
                ours, _ = by_step(made)
        try:
            agree(ours, theirs, start, made.tolerance)
        except AssertionError:
            agree(ours, theirs, start, digits(at))
    except GradientMismatchError as error:
        return f"mismatch: {_said(error)}"
    except AssertionError as error:
        return f"wrong: {_said(error)}"
    except MemogradError as error:
        return f"refused: {_said(error)}"
    except Exception as error:
        return f"crash: {_said(error)}"
    return "pass"


class Narrow(TorchDispatchMode):
    """Is anything computed in float32?"""

    def __init__(self) -> None:
        super().__init__()
        self.anything = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.anything |= any(t.dtype == torch.float32 for t in tensors)
        return result


def digits(at: Recipe) -> float:
    """The tolerance for what is added up in another order.

    A model in float64 that takes norms or logits in float32 has no more digits than these.
    """
    made = case(at)
    with default_of(made), Narrow() as mode:
        made.model(**made.kwargs)
    return max(made.tolerance, PARTLY) if mode.anything else made.tolerance


def agree(ours: Course, theirs: Course, start: Tensors, tolerance: float) -> None:
    """Losses, gradients, and what two steps did to parameters and buffers, each relative to its own largest element.

    Raises:
        AssertionError: they do not.
    """
    for k, (mine, other) in enumerate(zip(ours.losses, theirs.losses, strict=True)):
        _close(f"loss {k}", {"": mine}, {"": other}, tolerance)
    for k, gradients in enumerate(ours.gradients):
        _close(f"gradient {k} of ", gradients, theirs.gradients[k], tolerance)
    assert ours.state.keys() == theirs.state.keys()
    _close("change of ", _changes(ours.state, start), _changes(theirs.state, start), tolerance)


def _close(what: str, ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    dense = {name: t.detach().to_dense() for name, t in theirs.items() if t is not None}
    largest = {name: t.abs().max().item() if t.numel() else 0.0 for name, t in dense.items()}
    least = NOISE * max(largest.values(), default=0.0)
    for name, other in theirs.items():
        mine = ours[name]
        if mine is None or other is None:
            assert mine is other, f"{what}{name} is none on one side"
            continue
        atol = tolerance * max(largest[name], least)
        torch.testing.assert_close(
            mine.detach().to_dense(), dense[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{what}{name}: {m}"
        )


def _changes(state: Tensors, start: Tensors) -> Tensors:
    return {name: (t.double() - start[name].double()).detach() for name, t in state.items()}


def _copies(made: Any) -> Tensors:
    return {name: t.clone() for name, t in _tensors(made)}


def _work(model_type: str, ways: Sequence[str], seconds: int, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for result in results(model_type, ways):
        pipe.send(result)
    pipe.send(("done", ""))


def outcome(model_type: str, ways: Sequence[str] = WAYS, seconds: int = SECONDS) -> dict[str, str]:
    """All that ``results`` says of a type, by a process of its own that is stopped after ``seconds``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.modeling_utils", "memograd"])
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(model_type, ways, seconds, there), daemon=True)
    start = time.monotonic()
    process.start()
    there.close()
    told: dict[str, str] = {"type": model_type}
    try:
        while "done" not in told and here.poll(max(0.0, start + PATIENCE * seconds - time.monotonic())):
            told.update([here.recv()])
        ended = "slow"
    except EOFError:
        process.join()
        ended = "slow" if process.exitcode == -signal.SIGXCPU else f"crash: the process ended ({process.exitcode})"
    finally:
        process.kill()
        process.join()
    if "trains" not in told:
        told.setdefault("untrained", f"plain PyTorch: {ended}")
    elif "done" not in told:
        told |= {way: told.get(way, ended) for way in ways}
    told["seconds"] = f"{time.monotonic() - start:.0f}"
    return told


def sweep(types: list[str], ways: Sequence[str], in_turn: bool, log: Path | None) -> list[dict[str, str]]:
    """What comes of each type: printed, and appended to ``log``, a JSON object a line, which is read first.

    Args:
        in_turn: one of the ways for each type, for half the time.
    """
    rows: dict[str, dict[str, str]] = {}
    if log is not None and log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault(row["type"], {}).update(row)
    for k, model_type in enumerate(types):
        known = rows.setdefault(model_type, {})
        left = [way for way in ways if way not in known]
        if in_turn:
            left = [] if len(left) < len(ways) else [ways[k % len(ways)]]
        if not left or "untrained" in known:
            continue
        row = outcome(model_type, left)
        known.update(row)
        said = "; ".join(f"{key} {row[key]}" for key in ("untrained", "trains", *left) if key in row)
        print(f"{model_type:28} {said[:400]} ({row['seconds']} s)", flush=True)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return [rows[model_type] for model_type in types]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--count", type=int, default=200, help="how many types of the sample, where none are named")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--in-turn", action="store_true", help="one of the ways for each type, for half the time")
    parser.add_argument("--log", type=Path, help="a file of JSON lines; what is in it already is not run again")
    parser.add_argument("--record", action="store_true", help=f"write a section of {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    rows = sweep(options.types or sample(options.count), options.ways, options.in_turn, options.log)
    counts = Counter(kind(row) for row in rows)
    print(", ".join(f"{count} {what}" for what, count in counts.most_common()))
    if options.record:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(placed(page, TITLE, section(rows)), encoding="utf-8")
    return 1 if any(counts[what] for what in BAD) else 0


def section(rows: list[dict[str, str]]) -> str:
    """The part of the page about the types in ``rows``."""
    import transformers

    counts = Counter(kind(row) for row in rows)
    trained = len(rows) - counts["untrained"]
    step, wrap = (sum(way in row for row in rows) for way in WAYS)
    lines = [
        TITLE,
        "",
        f"transformers {transformers.__version__} lists a model for {len(model_types())} types. These were drawn from",
        f"them with the seed {SEED}, and nothing about them was written by hand: configurations get small sizes by the",
        "names of their fields, inputs are made by the names of `forward`'s arguments, and the first combination that",
        f"plain PyTorch trains is taken, with dropout as it comes. Two steps of SGD through `mg.TrainStep` ({step}",
        f"types) or `mg.wrap` ({wrap}) have to give PyTorch's losses, gradients and changes of parameters and",
        f"buffers, each to 1e-8 of its own largest number, or of {NOISE:g} of the largest gradient where that is more",
        f"(5e-4 if a model runs in float32 only, {PARTLY:g} where one in part does and the first is not met).",
        "`python tests/sweeps/automatic.py --record` writes this.",
        "",
        f"PyTorch trains {trained} of {len(rows)} types as they were made. Of these {counts['pass']} pass",
        f"({100 * counts['pass'] / max(1, trained):.1f} %), {counts['refused']} are refused with an error that says",
        f"why, {counts['wrong']} are silently wrong, {sum(counts[k] for k in BAD) - counts['wrong']} end otherwise.",
        "",
        f"Pass: {', '.join(sorted(row['type'] for row in rows if kind(row) == 'pass'))}.",
    ]
    others = [row for row in rows if kind(row) in (*BAD, "refused")]
    if others:
        lines += ["", "| type | way | what it says |", "|---|---|---|"]
        said = [(row["type"], way, row[way]) for row in others for way in WAYS if row.get(way, "pass") != "pass"]
        lines += [f"| {name} | {way} | {text.replace('|', '/')} |" for name, way, text in said]
    return "\n".join(lines) + "\n"


def kind(row: dict[str, str]) -> str:
    """``untrained``, or the worst of the ways."""
    if "untrained" in row:
        return "untrained"
    ways = [row[way].partition(":")[0] for way in WAYS if way in row]
    return next((what for what in (*BAD, "refused") if what in ways), "pass")


if __name__ == "__main__":
    sys.exit(main())
