"""Record ATen calls as nodes of an fx graph. Used by capture, by the rules and by optimizers.

A tracer sits on PyTorch's dispatcher below autograd, so composite functions (``linear``, ``cross_entropy``, autocast,
``einsum``) arrive already taken apart into the operators that really run; in inference mode, where autograd does not
see them, they are taken apart here. It costs about 0.1 ms an operator.

Three things are decided here because only here they can be seen:

- *gradient stops*: an operator that runs while grad mode is off gets a ``memograd::no_grad`` behind it (in inference
  mode, where tangents stop too, a ``memograd::stop``);
- *custom functions*: operators that run inside ``autograd.Function.apply`` carry no adjoint either, see
  ``applications.py``;
- *mutation*: an in-place operator is recorded as its functional twin (see ``mutation.py``).

How an operator becomes nodes is the business of ``recorder.py``, which tensor is which node that of ``tape.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from memograd import autocast
from memograd._torch import (
    DATA_DEPENDENT,
    FAKE,
    TorchDispatchMode,
    is_default_generator,
    is_fake,
    is_given_functions,
    quiet,
    taken_apart,
    without_function_modes,
    without_modes,
)
from memograd.errors import CaptureError, DataDependentError, MemogradError, ResizedError
from memograd.looks import look, read, what_is_seen
from memograd.tracing import cudnn, generators, shapes, zeros  # noqa: F401  (shapes enters what it knows)
from memograd.tracing.constants import constant
from memograd.tracing.mutation import functional_twin
from memograd.tracing.operator_kinds import (
    COMPARISONS,
    INDEXED,
    MEMORY,
    NUMBERS,
    QUERIES,
    arrives_whole,
    looked_at,
    of_numbers_only,
)
from memograd.tracing.processes import COLLECTIVE, refuse_collective
from memograd.tracing.provenance import caller
from memograd.tracing.recorder import Recorder
from memograd.tracing.shapes_seen import result_of
from memograd.tracing.turned import made_again
from memograd.tracing.writer import map_tensors

aten = torch.ops.aten


class Tracer(Recorder, TorchDispatchMode):
    """Appends every ATen call made under it to ``graph``; see ``Tape`` for the arguments."""

    offset_inputs = False  # some input starts inside its memory, which its stand-in does not
    bits = False  # some input is a conjugated or negated view, which its stand-in is not
    supports_higher_order_operators = True  # to refuse them by name
    own_node = False  # the hook that is being registered is one on the node of an autograd.Function

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seeds: Any = None  # what the program makes of the random generator, see ``chance.py``
        self.past_hooks: list[tuple[set[fx.Node], str]] = []  # who reads a tensor without its hook, and where that is
        self.warned: Any = None  # takes what the program warns of, where runs of its graph give that, see ``warned.py``
        self.registered: Any = None  # takes hooks on inputs, where these are none of the graph's, see ``registered.py``
        self.handles: dict[int, tuple[Any, str]] = {}  # by id: those of hooks on its own tensors, and what these are
        self.given_ids: dict[int, tuple[int, int]] = {}  # what stands for an argument: its position and its id
        self.asked_ids: set[tuple[int, int]] = set()  # those the program has asked for
        self.others_asked: set[int] = set()  # ids of other tensors for which the program has asked
        self.computed_ids: set[int] = set()  # and has computed with
        self.not_asked: set[int] = set()  # stand-ins of arguments that require a gradient which nobody will compute
        self.regions: list[Any] = []  # that write and will be computed again, see ``checkpoints.py``
        self.open_regions: list[Any] = []  # the program is in

    @contextmanager
    def rules(self) -> Iterator[None]:
        """Record the derivative rules that run inside: no autograd, no autocast, and other tracers look away."""
        with without_function_modes(), torch.no_grad(), autocast.off(), quiet(), FAKE, self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or func in QUERIES:
            return func(*args, **kwargs)
        if self.turned and self.met_before_turn(args, kwargs):
            return made_again(self, func, args, kwargs)
        if arrives_whole(func):
            with self:
                return taken_apart(func, args, kwargs)
        self._refuse(func, args, kwargs)
        if (generator := generators.given(args, kwargs)) is not None:
            if not is_default_generator(generator):
                return self._drawn(types, *generators.drawn(func, args, kwargs, self.looking))
            args, kwargs = generators.without(args, kwargs)
        if self.seeds is not None and self.seeds.own is not None and torch.Tag.nondeterministic_seeded in func.tags:
            return self._drawn(types, *self.seeds.drawn(func, args, kwargs))
        if func in cudnn.CHOICES:
            return False
        if func in cudnn.BATCH_NORMS:
            out = self.__torch_dispatch__(aten.native_batch_norm.default, types, args, kwargs)
            return cudnn.as_returned_by(func, out)
        if func is aten.native_batch_norm.default and args[3] is not None and args[5]:
            func = aten._native_batch_norm_legit.default  # the same, with a schema that owns up to its writes
        if self.concrete and func.overloadpacket in INDEXED:
            args = (args[0], self._positions(args[1]), *args[2:])
        if func in COMPARISONS:
            with self:
                return COMPARISONS[func](*args, **kwargs)
        if of_numbers_only(func, args):
            return self._number(func, args, kwargs)
        if func is look:  # of a graph that runs inside this program
            self.look(args[0], args[2])
            return torch.empty(0, dtype=torch.uint8)
        if func is read:
            return self._read(args[0])
        if func is aten.resize_.default and list(args[1]) == list(args[0].shape):
            return args[0]  # ``torch.randn(n, out=x)`` asks for the shape that ``x`` has
        if func is aten.resize_.default and self.is_given(args[0]):
            raise ResizedError(
                f"a tensor that the program holds has the size {list(args[0].shape)} and is given another one, "
                f"{list(args[1])}, at {' ('.join(caller())}). Where only the first call does so (observers of "
                "torch.ao.quantization), call the model once before it is captured"
            )
        return self._recorded(func, types, args, kwargs)

    def _refuse(self, func: Any, args: Any, kwargs: Any) -> None:
        """Raises CaptureError for what no graph could say."""
        if is_given_functions(func):
            source, line = caller()
            raise CaptureError(
                f"{source} ({line}) calls {func.name()}, an operator that is given functions, and has no rule here; "
                "write the branch or the loop in Python (memograd sees which way it goes)"
            )
        if func.namespace in COLLECTIVE:
            refuse_collective(func, *caller())
        if self.offset_inputs and func is aten.as_strided.default and (len(args) > 3 or "storage_offset" in kwargs):
            raise CaptureError(
                "as_strided with an explicit offset, and an argument is a view into a larger tensor: "
                "offsets count from the start of that one; pass a copy (x.clone())"
            )

    def _drawn(self, types: Any, numbers: torch.Tensor, into: torch.Tensor | None) -> Any:
        """Random ``numbers`` that were drawn elsewhere, as a new tensor or written to one."""
        copy, operands = (aten.clone, (numbers,)) if into is None else (aten.copy_, (into, numbers))
        return self.__torch_dispatch__(copy.default, types, operands, {})

    def _number(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        """What an operator makes of numbers alone, as a constant."""
        with without_modes():
            result = func(*args, **kwargs)
            number, dtype = result.item(), result.dtype
        with self:
            return torch.scalar_tensor(number, dtype=dtype)

    def _recorded(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operator that becomes a node, or of a write; where nobody could say it, what is known."""
        try:
            if functional := functional_twin(func):
                return self._record_write(func, functional, args, kwargs)
            out = self._run(aten.zeros.default if func is zeros.ZEROS else func, args, kwargs)
            if self.concrete and func.overloadpacket in MEMORY:
                return self.raw(out)
        except DATA_DEPENDENT as error:
            if func in NUMBERS and (known := constant(self.node_of(args[0]))) is not None:
                with without_modes():
                    return bool(known) if func is aten.is_nonzero.default else known.item()
            raise DataDependentError(self._data_dependent(func)) from error
        except Exception as error:
            if self.concrete and not isinstance(error, MemogradError):
                self._refused_by_a_kernel(func, args, kwargs)
            raise
        if zeros.is_product(func) and zeros.vanishes(func, self._nodes(args)):
            return self.__torch_dispatch__(zeros.ZEROS, types, *zeros.like(out))
        self._record(func, args, kwargs, out)
        if self.concrete:
            for tensor, what in looked_at(func, args, kwargs, out):
                self.look(tensor, what)
        return out

    def _refused_by_a_kernel(self, func: Any, args: Any, kwargs: Any) -> None:
        """A program that goes on from here (``except torch.linalg.LinAlgError``) does so for these operands."""
        try:
            result_of(func, *map_tensors(lambda t: self.like(self.stand_in(t)), (args, kwargs)))
        except Exception:
            return  # as for any of these shapes
        map_tensors(lambda t: self.look(t, "value"), (args, kwargs))

    def look(self, tensor: torch.Tensor, what: str) -> None:
        """The program is told the value of ``tensor`` (or its shape, which depends on values): the graph is right for
        that only, and says so, unless it is the same whenever the program runs."""
        if not self.concrete:
            source, line = caller()
            raise DataDependentError(f"{source} ({line.strip()}) looks at a value while the graph is captured")
        node = self.node_of(tensor)
        if what == "shape" or constant(node) is None:
            with self.pause():
                value = what_is_seen(self.stand_in(tensor), what)
                with FAKE:
                    nothing = torch.empty(0, dtype=torch.uint8)
            self._emit(look, (node, self.looks, what, value), {}, nothing)
            self.looks += 1

    def _read(self, tensor: torch.Tensor) -> torch.Tensor:
        known = self.stand_in(tensor)
        if self.concrete or is_fake(known):
            self.look(tensor, "value")
        return known

    @property
    def looking(self) -> Callable[[torch.Tensor, str], None] | None:
        """``look``, where the capture is on values."""
        return self.look if self.concrete else None

    def _positions(self, indices: Any) -> list[Any]:
        """Masks among ``indices`` as positions, as the operator itself would: the rules, which do not run on values,
        can then tell shapes."""
        positions: list[Any] = []
        with self:
            for index in indices:
                if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                    positions += index.nonzero().unbind(1)
                else:
                    positions.append(index)
        return positions

    def _data_dependent(self, func: Any) -> str:
        source, line = caller()
        return (
            f"{func} at {source} ({line.strip()}) in module '{self.modules.path or '<root>'}' needs a tensor's value "
            "while the graph is captured (data-dependent control flow, .item(), or a data-dependent shape). "
            "Write it with tensor operations (torch.where), or compute it outside and pass it in."
        )
