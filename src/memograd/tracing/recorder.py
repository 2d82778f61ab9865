"""An operator and its result as nodes: what is new, what looks at the memory of an operand, what is written to, and the
marks behind which no adjoint flows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from memograd import as_written, ops
from memograd._torch import pytree, schema_of
from memograd.errors import CaptureError
from memograd.rules.registry import is_constant_result, own_results_of
from memograd.tracing import turned
from memograd.tracing.mutation import arguments_for, is_view, options_of, write_back
from memograd.tracing.provenance import caller, in_graph
from memograd.tracing.shapes_seen import result_of
from memograd.tracing.tape import Tape
from memograd.tracing.writer import map_tensors

aten = torch.ops.aten


class Recorder(Tape):
    """Records one operator after the other; which ones, ``Tracer`` decides."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.used: Callable[[torch.Tensor], fx.Node] | None = None  # the node of an operand, if it is not its tensor's
        self.default_dtype = torch.get_default_dtype()  # the one in force when the graph runs

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        single = isinstance(out, torch.Tensor)
        outs = [out] if single else pytree.tree_leaves(out)
        if func in ops.CHECKS:
            self._emit(func, self._nodes(args), self._nodes(kwargs), None)
        if not any(isinstance(o, torch.Tensor) for o in outs):
            return  # a size, a stride, a flag: already a Python value
        if func is aten.lift_fresh.default:  # torch.tensor(...): new memory each time the program runs
            self.bind(out, self._emit(aten.lift_fresh_copy.default, (self.node_of(args[0]),), {}, out))
            self.lent(out, args[0])
            return
        if func in (aten.detach.default, ops.stop):
            self._detach(func, args[0], out)
            return
        if torch.get_default_dtype() is not self.default_dtype:
            kwargs = _said(func, args, kwargs, outs)
        operands = self._nodes(args)
        if self.stops and (own := own_results_of(func)):
            operands = tuple(ops.behind_stops(a) if i in own else a for i, a in enumerate(operands))
        node = self._emit(func, operands, self._nodes(kwargs), out)
        if func is as_written.call:
            node.meta["code"] = as_written.code_of(args[1])
        source = self._known.get(id(args[0])) if args and is_view(func) else None
        for i, tensor in enumerate(outs):
            if not isinstance(tensor, torch.Tensor) or id(tensor) in self._known:
                continue
            value = node if single else self._emit(operator.getitem, (node, i), {}, tensor)
            value = self._marked(value, tensor, is_constant_result(func, i))
            if source is not None:
                step = (func, args[1:], kwargs, None if single else i)
                self._known[id(tensor)] = source.view(tensor, step, value)
            else:
                self.bind(tensor, value)

    def _detach(self, func: Any, tensor: torch.Tensor, out: torch.Tensor) -> None:
        """``out`` is ``tensor`` without its history: a stop in a program; nothing at all inside a rule.

        PyTorch also detaches on its own account: the results that an operator saves for its backward, to which it
        gives their history back when they are read. Whoever reads one with a history gets the value that was saved.
        """
        node = self.node_of(tensor)
        alias = self._known[id(tensor)]
        if not self.stops and func is aten.detach.default:
            self._known[id(out)] = replace(alias, tensor=out)
            return
        if tensor.requires_grad and tensor.grad_fn is not None:
            self._saved[tensor.grad_fn, tensor.output_nr] = node
        self._known[id(out)] = alias.detached(
            out, self._emit(ops.stop, (node,), {}, out), untouched=func is not ops.stop
        )

    def _record_write(self, func: Any, functional: Any, args: Any, kwargs: Any) -> Any:
        """An in-place or ``out=`` call: record the functional twin, then write its results back."""
        schema = schema_of(func)
        missing = [a for a in schema.arguments[len(args) :] if not a.kwarg_only and a.name not in kwargs]
        args = (*args, *(a.default_value for a in missing))  # the twin may have other defaults
        written = [
            kwargs[a.name] if a.name in kwargs else args[i] if i < len(args) else None
            for i, a in enumerate(schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ]
        map_tensors(self._read_anew, written)
        outs = {a.name for a in schema.arguments if a.kwarg_only and a.alias_info is not None}
        pure_kwargs = {k: v for k, v in kwargs.items() if k not in outs}
        if outs:
            pure_kwargs |= options_of(func, functional, written[0])
        if turned.is_turn(func):
            self.redocument(self.stand_in(args[0]))
            if self._turn(func, functional, args, kwargs):
                return args[0]
        pure = arguments_for(functional, func, args)
        new = self._run(functional, pure, pure_kwargs)
        news, spec = pytree.tree_flatten(new)
        node = self._emit(functional, self._nodes(pure), self._nodes(pure_kwargs), new)
        values = (
            [node] if spec.is_leaf() else [self._emit(operator.getitem, (node, i), {}, n) for i, n in enumerate(news)]
        )
        olds = [t for w in written if w is not None for t in (w if isinstance(w, (list, tuple)) else [w])]
        fresh = sum(r.alias_info is None for r in schema.returns)  # results besides what is written
        if self.concrete and torch.Tag.nondeterministic_seeded in func.tags:  # must not draw again
            for old, drawn in zip(olds, news[fresh:], strict=True):
                self.stand_in(old).copy_(drawn)
            result = news[0] if fresh else olds[0]
        else:
            result = self._run(func, args, kwargs)
        for i, (tensor, value) in enumerate(zip(pytree.tree_leaves(result), values[:fresh], strict=False)):
            self.bind(tensor, self._marked(value, tensor, is_constant_result(functional, i)))
        for old, value, fake in zip(olds, values[fresh:], news[fresh:], strict=True):
            self._write(old, value, fake)
        if fresh:
            return result
        return olds[0] if isinstance(result, torch.Tensor) else result if result is None else type(result)(olds)

    def _read_anew(self, tensor: torch.Tensor) -> None:
        alias = self._known.get(id(self.present(tensor)))
        if alias is not None:
            alias.read_anew()

    def _turn(self, func: Any, view: Any, args: Any, kwargs: Any) -> bool:
        """``args[0]`` looks at its memory in another way from now on. False where it is written to instead."""
        tensor, *rest = args
        alias, aliases = self._alias_of(tensor), list(self._known.values())
        given = self.is_given(tensor) and not alias.chain
        if self.stops and (given or not torch.is_grad_enabled()):
            turned.refuse_others(alias, aliases, func)
            return False
        node = self.node_of(tensor)
        turned.keep_geometry(aliases, tensor)
        func(*args, **kwargs)
        like = self.like(tensor)
        value = self._emit(view, (node, *rest), kwargs, like)
        step = (view, tuple(rest), kwargs, None)
        further = self._known[id(tensor)].view(like, step, value, tensor.storage_offset())
        self._known[id(tensor)] = replace(further, tensor=tensor)
        return True

    def _write(self, old: torch.Tensor, value: fx.Node, fake: torch.Tensor) -> None:
        alias = self._alias_of(old)
        if alias.storage.memory.lent:
            raise CaptureError(
                f"a write at {' ('.join(caller())}) goes to memory that the program has from NumPy or another library, "
                "which a graph cannot tell whether to write to; write to a copy (t.clone())"
            )
        if fake.dtype != old.dtype:  # an in-place operator keeps the dtype of what it writes to
            fake = fake.to(old.dtype)
            value = self._emit(aten._to_copy.default, (value,), {"dtype": old.dtype}, fake)
        value = self._marked(value, fake)
        hidden = ops.written if self.stops and not torch.is_grad_enabled() else None
        write_back(alias, value, hidden, self._emit)

    def _marked(self, node: fx.Node, tensor: torch.Tensor, constant: bool = False) -> fx.Node:
        """``node``, behind a mark when autograd would not differentiate through it. ``constant``: as this result of
        the operator; the graph of an inner transform, which runs here again, has such marks where they belong."""
        if not self.stops or not (tensor.is_floating_point() or tensor.is_complex()):
            return node
        if torch.is_grad_enabled():
            return self._emit(ops.stop, (node,), {}, tensor) if constant and not in_graph() else node
        if self.applied and not self.applied[-1].stops(node):
            return node
        alone = not self.applied and not torch.is_inference_mode_enabled()
        return self._emit(ops.no_grad if alone else ops.stop, (node,), {}, tensor)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """``func`` on stand-ins, its results laid out as its kernel does it."""
        args, kwargs = self._stand_ins(args), self._stand_ins(kwargs)
        return func(*args, **kwargs) if self.concrete else result_of(func, args, kwargs)

    def _nodes(self, tree: Any) -> Any:
        return map_tensors(self.used or self.node_of, tree)

    def _stand_ins(self, tree: Any) -> Any:
        """The user's tensors (constants of the program) replaced, so that nothing real is mutated."""
        return map_tensors(self.stand_in, tree)


def _said(func: Any, args: Any, kwargs: Any, outs: list[Any]) -> Any:
    """``kwargs`` of a call under another default dtype than the graph will run under, which says what came of that."""
    given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    made = [x for x in outs if isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())]
    if not made or any(x.is_floating_point() or x.is_complex() for x in given):
        return kwargs
    if any(a.name == "dtype" for a in schema_of(func).arguments) and not given:
        return {"dtype": made[0].dtype, **{k: v for k, v in kwargs.items() if v is not None}}
    if kwargs.get("dtype") is None:
        source, line = caller()
        raise CaptureError(
            f"{source} ({line}) makes floating-point numbers of whole ones where the program has set another default "
            "dtype (torch.set_default_dtype), which a graph does not set when it runs; convert them there "
            "(x.to(dtype))"
        )
    return kwargs
