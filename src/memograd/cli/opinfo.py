"""``memograd check --opinfo``: the sweep of PyTorch's operator database, printed while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from memograd.errors import MemogradError
from memograd.verify.measured import add_up, columns, load, save
from memograd.verify.sweep import Tally, entries, sweep


def check_opinfo(
    dtype: str,
    order: int,
    limit: int | None,
    seed: int,
    only: str,
    record: bool,
    say: Callable[[str], None],
) -> tuple[list[Tally], dict[str, Any]]:
    """Sweep, say one line for each entry, and return the tallies and their summary.

    Args:
        limit: most samples of an entry; None for all.
        only: entries whose name contains this.
        record: write the counts to ``measured.json``.

    Raises:
        MemogradError: no entry is called ``only``, or ``record`` with only some entries or another precision.
    """
    kind = getattr(torch, dtype)
    chosen = [op for op in entries(kind, order) if only in f"{op.name}.{op.variant_test_name}"]
    if not chosen:
        raise MemogradError(f"no differentiable entry of op_db in {dtype} at order {order} is called *{only}*")
    wanted = columns(order, kind)
    if record and (only or not wanted):
        raise MemogradError("--record takes whole sweeps: float64 of order 1 or 2, complex128 of order 1, no --only")
    tallies = []
    say(f"{'entry':55s} {'verdict':10s} {'pass':>4s} {'ref.':>4s} {'wrong':>5s} reason")
    for tally in sweep(chosen, kind, order, limit, seed):
        tallies.append(tally)
        say(str(tally))
    totals = summary(tallies)
    if record:
        run = {"samples": totals["samples"]["pass"], "limit": limit, "seed": seed, "dtype": dtype, "order": order}
        measured = load()
        for column in wanted:
            measured.put(column, add_up(tallies, column), {**run, "torch": torch.__version__.split("+")[0]})
        save(measured)
    return tallies, totals


def summary(tallies: list[Tally]) -> dict[str, Any]:
    """Entries and samples by verdict. An entry is wrong with its first wrong sample, refused with its first refused."""
    by_entry = Counter(t.verdict for t in tallies)
    by_sample = {
        "pass": sum(t.passed for t in tallies),
        "disputed": sum(t.disputed for t in tallies),
        "refused": sum(t.refused for t in tallies),
        "wrong": sum(t.wrong for t in tallies),
    }
    return {"entries": dict(by_entry), "samples": by_sample}


def as_dict(tally: Tally) -> dict[str, Any]:
    """One entry for ``--json``."""
    counts = {"pass": tally.passed, "disputed": tally.disputed, "refused": tally.refused, "wrong": tally.wrong}
    return {"entry": tally.name, "verdict": tally.verdict, **counts, "reasons": dict(tally.reasons)}


def closing(totals: dict[str, Any]) -> str:
    """The summary as text."""
    entry, sample = totals["entries"], totals["samples"]
    kinds = [f"{entry[v]} {v}" for v in ("pass", "refused", "wrong", "no samples") if v in entry]
    return (
        f"entries: {', '.join(kinds)}; samples: {sample['pass']} pass ({sample['disputed']} of them by finite "
        f"differences, against autograd), {sample['refused']} refused, {sample['wrong']} wrong"
    )
