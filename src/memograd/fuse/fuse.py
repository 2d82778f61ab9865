"""From ATen operators to fused kernels, for backends that compile: a graph in, a graph out, like every stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from memograd import clock
from memograd.cautions import caution
from memograd.errors import BackendError
from memograd.fuse.build import build, kernel_of
from memograd.fuse.compiling import compile_all
from memograd.fuse.groups import SLOW, Group, bytes_in, groups
from memograd.graph.graph import Graph
from memograd.graph.kernels import Kernel

_WORTH = 2e-4  # seconds a step: what a kernel must save in all its places to be worth compiling
_FAILURES = 3


def fuse(graph: Graph) -> Graph:
    """A lowered graph with its pointwise operators and sums in compiled kernels. Compiling takes a second or two for
    each kernel that is new to this machine; what cannot be compiled stays as it is, with a warning."""
    kernels = {group: kernel_of(group) for group in groups(graph)}
    saved: Counter[Kernel] = Counter()
    for group, kernel in kernels.items():
        saved[kernel] += _saves(group)  # pyright: ignore[reportArgumentType]
    samples = {kernel: group for group, kernel in kernels.items() if saved[kernel] >= _WORTH}
    compiled = _compiled(samples)
    return build(graph, {group: kernel for group, kernel in kernels.items() if kernel in compiled})


def _saves(group: Group) -> float:
    """Seconds: reading and writing what is now computed inside, and calling it."""
    inside = [n for n in group.computed if n not in group.results]
    slow = sum(sum(map(bytes_in, n.all_input_nodes)) for n in group.computed if n.target in SLOW)
    traffic = slow + sum(2 * bytes_in(n) for n in inside)
    return clock.transfer(traffic, group.device) + len(inside) * clock.OVERHEAD


def _compiled(samples: Mapping[Kernel, Group]) -> set[Kernel]:
    """Those kernels that Inductor can compile. It is given up after a few failures: there may be no compiler."""
    done: set[Kernel] = set()
    errors: list[BackendError] = []

    def tell(kernel: Kernel, error: BackendError | None) -> bool:
        if error is None:
            done.add(kernel)
        else:
            errors.append(error)
        return bool(done) or len(errors) < _FAILURES

    compile_all([(kernel, [n.meta["val"] for n in group.operands]) for kernel, group in samples.items()], tell)
    if errors:
        caution(f"{len(samples) - len(done)} kernels run operator by operator: {errors[0]}")
    return done
