"""The forward of a wrapped model: for each call the program that is right for it, and a new one where none is."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from memograd._torch import (
    dynamo_listens,
    module_hooks,
    pytree,
    without_dispatch_modes,
    without_function_modes,
    without_saved_tensor_hooks,
)
from memograd.draws import undone_on_error
from memograd.errors import CaptureError, DataDependentError, MemogradError, ResizedError, add_note
from memograd.frontend.binding import function_of
from memograd.frontend.check import Witness
from memograd.frontend.distributed import Elsewhere, parts_of
from memograd.frontend.inputs import only_tensors
from memograd.frontend.lane import Lane, lane_of
from memograd.frontend.plain import is_plain
from memograd.frontend.program import Program
from memograd.frontend.settings import Settings
from memograd.looks import DecisionChangedError, comparing
from memograd.memory.plan import Plan
from memograd.tracing.captures import Captures
from memograd.tracing.plainly import is_raised_by_pytorch
from memograd.tracing.reuse import Recent, ambient, flat, places, signature
from memograd.transforms.surroundings import untraced

_MOST = 64  # programs of one signature
_OF_FUNCTIONS = frozenset({"__code__", "__globals__", "__closure__", "__defaults__", "__kwdefaults__"})


class Wrapped:
    """The forward function of a wrapped model.

    Attributes:
        own: the one that the instance had of its own; None: that of its class.
        captures: why the model was captured, each time.
        check_reason: how the last comparison with ``torch.autograd`` came out, or why there was none.
        parts: those that it has let be wrapped in its place.
    """

    def __init__(self, model: nn.Module, own: Callable[..., Any] | None, settings: Settings, check: str) -> None:
        self.model = model
        self.own = own
        self.settings = settings
        self.check = check
        self.off = False  # PyTorch's own forward runs
        self.parts: list[nn.Module] = []
        self._begin()

    def _begin(self) -> None:
        self.captures = Captures(f"the forward pass of {type(self.model).__name__}")
        self._last: Program | None = None
        self.check_reason = "not compared: check='never'" if self.check == "never" else "no backward pass was run yet"
        self._programs: dict[Any, list[Any]] = Recent()
        self._hooks: list[dict[int, Any]] | None = None  # the tables of the modules that there were at the last capture
        self._short: tuple[Lane, Program] | None = None
        self._long, self._patience = 0, 1  # calls that went the long way, and when to look for a short one

    @property
    def original(self) -> Callable[..., Any]:
        """PyTorch's own forward."""
        return self.original_of(self.model)

    def original_of(self, module: nn.Module) -> Callable[..., Any]:
        """The same for a copy of the model."""
        if self.own is None:
            return types.MethodType(type(module).forward, module)
        return types.MethodType(self.own.__func__, module) if isinstance(self.own, types.MethodType) else self.own

    @property
    def __signature__(self) -> inspect.Signature:  # who asks which arguments the model takes
        return inspect.signature(self.original)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_FUNCTIONS and "model" in vars(self):  # who reads the code of a forward means PyTorch's own
            return getattr(self.original, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        carried_over = ("model", "own", "settings", "check", "off", "parts")  # programs are made anew
        return {name: getattr(self, name) for name in carried_over}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    __name__ = "forward"

    @cached_property
    def __func__(self) -> Callable[..., Any]:  # of which this is the method, for who binds it anew
        return function_of(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], nn.Module) and self._is_bound_to(args[0]):
            return self.__func__(*args, **kwargs)
        frame = sys._getframe(1)
        module = self.model if frame.f_locals.get("self") is self.model else self._called(frame)
        if module is self.model:
            return self.call(args, kwargs)
        module.forward = self.twin(module)
        return module.forward(*args, **kwargs)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What its model returns."""
        if self._short is not None and not (self.off or dynamo_listens()):
            lane, program = self._short
            flat = lane(args, kwargs)
            if flat is not None:
                self._last = program
                return program.launch(flat)
        return _call(self, args, kwargs)

    def twin(self, module: nn.Module) -> Wrapped:
        """The same for ``module``, a copy of the model."""
        own = self.original_of(module) if self.own is not None else None
        return Wrapped(module, own, self.settings, self.check)

    def _is_bound_to(self, module: nn.Module) -> bool:
        """Whether somebody has made a method of ``module`` of this, and so hands it over as the first argument."""
        return module is self.model or getattr(module.__dict__.get("forward"), "__func__", None) is self

    def _called(self, frame: types.FrameType) -> nn.Module:
        """The module whose forward this is. A shallow copy (``copy.copy``, a replica of ``DataParallel``) has the same
        function in its dict, and other tensors: only the frames above know which of the two is called."""
        for _ in range(3):
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and module.__dict__.get("forward") is self:
                return module
            if frame.f_back is None:
                break
            frame = frame.f_back
        return self.model

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the model returns, by the program for these arguments."""
        key = self._key(args, kwargs)
        programs = self._programs.get(key)
        if programs is None:
            programs = self._programs[key] = []
        why, stale = "" if self.captures else "the first call", None
        for program in [*programs]:
            if not program.guards.hold():
                stale = stale or program.guards
                continue
            if not program.guards.given_hold(flat(args, kwargs)):
                why = "an argument is a tensor that the model holds, or is none any more"
                continue
            if program.plain:
                return self.original(*args, **kwargs)
            out, unlike = self._tried(program, args, kwargs)
            if unlike is not None:
                why = unlike
                continue
            if program is not programs[0]:
                programs.remove(program)
                programs.insert(0, program)
            return out
        if any(is_lazy(t) for t in (*self.model.parameters(), *self.model.buffers())):
            return self.original(*args, **kwargs)  # which makes them
        if not why and stale is not None:  # asked here alone: models that go to and fro find their program at each call
            why = f"{stale.changed()} is not what it was"
        return self._by_a_new_one(programs, why, args, kwargs)

    def _by_a_new_one(self, programs: list[Any], why: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same by a program that is captured now, and stands first among ``programs``; ``why`` that has to be."""
        raised = None
        try:
            program = self._captured(args, kwargs)
        except ResizedError:  # as the first call of an observer does: afterwards it may be captured
            return self.original(*args, **kwargs)
        except Exception as error:
            if not is_raised_by_pytorch(error):
                raise
            raised = error
        if raised is not None:
            return self._raising(raised, args, kwargs)
        self.captures.note(why, self.original, args, kwargs)
        programs.insert(0, program)
        del programs[_MOST:]
        if program.plain and not program.guards.volatile:  # what took from an iterator took that once
            return self.original(*args, **kwargs)
        return self._ran(program, args, kwargs)

    def _raising(self, raised: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """PyTorch's own forward, which raises what it raised when it was run to see whether it does: this time what it
        has left by then is not taken back."""
        try:
            return self.original(*args, **kwargs)
        except type(raised) as error:
            for note in getattr(raised, "__notes__", ()):
                add_note(error, note)
            raise

    def _tried(self, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str | None]:
        """What ``program`` returns, or why it is not the one for these arguments; nothing has happened then."""
        try:
            if not program.decisions:
                return self._ran(program, args, kwargs), None
            with undone_on_error(program.devices), comparing():
                return self._ran(program, args, kwargs), None
        except DecisionChangedError as changed:
            kind, value = program.decisions[changed.index]
            return None, f"look {changed.index} at a {kind} saw {value}, and now {changed.seen}"
        except MemogradError:
            raise
        except (RuntimeError, IndexError) as error:  # which the model may catch and go on from, in another program
            if not program.decisions:
                raise
            return None, f"{'a shape that values decide' if program.shaped else 'a kernel'}: {error}"

    def _ran(self, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._last = program
        out = program(args, kwargs, self._witness(program, args, kwargs))
        self._long += 1
        if self._long >= self._patience and self._hooks is not None and self.check != "always":
            self._patience *= 2  # who changes something at each call does not get a short way at each call
            unchecked = None if self.check == "never" else program.expected
            lane = lane_of(program, args, kwargs, self._hooks, unchecked)
            self._short = None if lane is None else (lane, program)
        return out

    @property
    def plan(self) -> Plan | None:
        """The memory plan of the call last made; None without a budget."""
        return getattr(self._last.running(), "plan", None) if self._last is not None else None

    def _witness(self, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Witness | None:
        if self.check == "never" or (self.check == "first" and not program.expected.try_comparing()):
            return None
        if self.settings.memory_budget is not None:
            self.check_reason = "not compared: PyTorch's own run beside it would not stay within the memory budget"
            return None
        if program.guards.ids is not None and program.guards.ids.found:
            self.check_reason = "not compared: the model finds something by the id of an argument"
            return None
        if program.guards.volatile:
            self.check_reason = (
                f"not compared: each run of the model finds something else in {program.guards.volatile!r}"
            )
            return None
        say = functools.partial(setattr, self, "check_reason")
        return Witness.of(program, self.model, self.original, args, kwargs, say)

    def _captured(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A program for these arguments."""
        self._hooks = None
        if parts := parts_of(self.model):
            self._hand_over(parts)
            return Elsewhere()
        with without_saved_tensor_hooks(), without_function_modes(), without_dispatch_modes():
            try:
                return Program(self.original, args, kwargs, concrete=False, settings=self.settings)
            except DataDependentError:
                return Program(self.original, args, kwargs, concrete=True, settings=self.settings)

    def _hand_over(self, parts: list[nn.Module]) -> None:
        """Let these parts of the model run graphs of their own, and the rest of it PyTorch's."""
        if self.settings.memory_budget is not None and not isinstance(self.model, DistributedDataParallel):
            raise CaptureError(
                f"{type(self.model).__name__} holds parts that talk to other processes between our graphs "
                "(fully_shard, DistributedDataParallel), and one memory budget does not cover that: wrap each part "
                "with a budget of its own"
            )
        for part in parts:
            own = part.__dict__.get("forward")
            if not isinstance(own, Wrapped):
                part.forward = Wrapped(part, own, self.settings, self.check)
                self.parts.append(part)
        self.check_reason = "not compared here: its parts are, each for itself"

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._hooks is None:
            self._hooks = module_hooks(self.model)
        hooks = tuple([tuple(table) for table in self._hooks if table])
        if not kwargs and only_tensors(args):
            each = [(x.shape, x.stride(), x.storage_offset() != 0, x.dtype, x.device, x.requires_grad) for x in args]
            return tuple(each), places(args), ambient(), hooks
        tracked = tuple([x.requires_grad for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)])
        return signature(args, kwargs), tracked, hooks


@untraced
def _call(wrapped: Wrapped, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if wrapped.off or is_plain(args, kwargs):
        return wrapped.original(*args, **kwargs)
    return wrapped.run(args, kwargs)
