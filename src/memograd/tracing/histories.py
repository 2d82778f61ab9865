"""What a program does to the history of its tensors without any operator: hooks on gradients, and ``detach_``.

* ``y.register_hook(f)``: the adjoint of ``y`` is passed through ``f``. That is a node behind ``y``, which whatever
  reads ``y`` reads instead, also what came before the call. Its backward is ``f``.
* ``y.detach_()``: from here on a gradient stops at ``y``. What has read it before keeps its gradient.
* Hooks on the nodes of autograd's own graph (``y.grad_fn.register_hook``) see operators that a graph of ours does not
  have; they are refused, but for those of an ``autograd.Function``, on which the backward hooks of modules rest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from memograd import ops
from memograd._torch import fake_like, hooks_of, register_hook
from memograd.errors import CaptureError
from memograd.tracing.applications import APPLY
from memograd.tracing.backward import UntracedError
from memograd.tracing.checkpoints import ENTER, EXIT
from memograd.tracing.functions import Call, emit
from memograd.tracing.held import Held
from memograd.tracing.hooks import looks_on, name_of
from memograd.tracing.interposed import Interposed, current, together
from memograd.tracing.operands import Ref
from memograd.tracing.provenance import caller
from memograd.tracing.reachable import reachable
from memograd.tracing.scripted import FUNCTION, METHOD
from memograd.tracing.tracer import Tracer
from memograd.tracing.tracked import TRACKED

_T = torch.Tensor
_MARKS = (_T.requires_grad_, _T.requires_grad.__set__)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


class Hook(Call):
    """One hook on a tensor, in the place of the tensor.

    Args:
        table: the tensor's hooks by number; a hook that was removed is not in it any more.
        looks_on: it is to be called when the graph runs.
    """

    def __init__(self, hook: Any, looks_on: bool, table: dict[int, Any], number: int, **operands: Any) -> None:
        super().__init__(name_of(hook), hook, **operands)
        self.__name__ = "hook"
        self.hook = hook
        self.looks_on = looks_on
        self.table = table
        self.at = number

    def roots(self) -> list[Any]:
        return [self.hook]

    def run(self, adjoints: list[Any], needed: list[bool], tensor_of: Callable[[Ref], torch.Tensor]) -> list[Any]:
        (adjoint,) = adjoints
        if adjoint is None or self.at not in self.table:
            return [adjoint]
        if self.looks_on and current() is not None:
            raise UntracedError("makes nothing of a gradient, or leaves something behind")
        new = self.hook(adjoint)
        return [adjoint if new is None else new]


class Histories(TorchFunctionMode):
    """While open, tells ``tracer`` of such calls."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.tracer.paused:
            if func in (_T.detach_, torch.detach_):
                return self._detach(func, *args, **kwargs)
            if func in _MARKS and args[0].grad_fn is not None and self.tracer.is_given(args[0]):
                if not (args[1] if len(args) > 1 else kwargs.get("requires_grad", True)):
                    raise CaptureError(f"{_here()} freezes an argument of the program; use x.detach(), or pass that")
                return args[0]  # it is one already; that its stand-in is no leaf must not show
            if func == _T.register_hook:
                return self._hook(*args, **kwargs)
            if func == _T.register_post_accumulate_grad_hook:
                raise CaptureError(f"{_here()} registers a hook on a gradient in .grad, of which a graph has none")
        return func(*args, **kwargs)

    def _detach(self, func: Any, tensor: torch.Tensor) -> torch.Tensor:
        node = self.tracer.node_of(tensor)
        func(tensor)
        self.tracer.settle(tensor, self.tracer.emit_node(ops.stop, (node,), tensor))
        return tensor

    def _hook(self, tensor: torch.Tensor, hook: Any) -> Any:
        tracer = self.tracer
        handle = _T.register_hook(tensor, hook)  # complains as PyTorch does
        node = tracer.node_of(tensor)
        if node.op == "placeholder" and tracer.registered is not None:
            if tracer.open_regions:
                raise CaptureError(
                    f"{_here()} registers a hook on what the program was given, inside a checkpoint, which would "
                    "register it again in the backward pass; register it outside of the checkpoint"
                )
            tracer.registered.all.append((tensor, hook, handle))
            return handle
        if id(tensor) in tracer.not_asked:
            raise CaptureError(
                f"{_here()} registers a hook on an argument that requires a gradient, which a step does not compute: "
                "it has those of its parameters alone. Wrap the model instead (mg.wrap), or pass x.detach()"
            )
        if tensor.is_leaf and node.op == "placeholder":
            raise CaptureError(
                f"{_here()} registers one more hook on a parameter each time the program runs; do that once, outside"
            )
        tracer.handles[id(handle)] = handle, name_of(hook)
        table = hooks_of(tensor)
        source: Any = node.args[0] if node.target is operator.getitem else None
        if source is not None and isinstance(source.target, Hook) and source.target.table is table:
            node = source.args[0][0]  # the adjoint comes to the hooks in the order in which they were registered
        held = Held(tracer, {id(tensor): Ref("output", 0)})
        with tracer.pause():
            looks = looks_on(hook, fake_like(tensor.detach()))
        read = [] if looks else list(reachable(hook))  # what it reads when the graph runs is what is there then
        if any(t.requires_grad and t.is_leaf and tracer.is_own(t) for t in read):
            since, history = tracer.count_until(tensor), _history([tracer.node_of(t) for t in read])
            held.keep_history(node, since, [hook], history)  # for an ``autograd.grad`` by such a leaf
        held.reach(read)
        call = Hook(hook, looks, table, handle.id, **held.operands([tensor]))
        self._insert(call, tensor, node, held.hidden_nodes, held.nodes)
        return handle

    def _insert(
        self, call: Hook, tensor: torch.Tensor, node: fx.Node, hidden: list[fx.Node], saved: list[fx.Node]
    ) -> None:
        """Put ``call`` behind ``node``, and behind what the hook reads."""
        tracer, order = self.tracer, {n: i for i, n in enumerate(self.tracer.graph.nodes)}
        last = max((node, *hidden, *saved), key=order.__getitem__)
        early = {user for user in node.users if order[user] <= order[last]}
        if early:  # what the hook reads comes from the tensor: ``z0 = z.detach()``
            tracer.past_hooks.append((early, _here()))
        while last.next.op == "placeholder":
            last = last.next
        with tracer.graph.inserting_after(last):
            hooked = emit(tracer, call, [[node], hidden, [node], saved], [tensor])
        with tracer.graph.inserting_after(hooked):
            item = tracer.emit_node(operator.getitem, (hooked, 0), tensor)
        node.replace_all_uses_with(item, delete_user_cb=lambda user: user is not hooked and user not in early)
        tracer.replace(node, item)


def _history(nodes: list[fx.Node]) -> set[fx.Node]:
    """Everything that ``nodes`` were computed of, up to where gradients stop, and what autograd has saved of that."""
    reached, waiting = set(nodes), list(nodes)
    while waiting:
        node = waiting.pop()
        operands = () if node.target is ops.stop else node.all_input_nodes
        waiting += [n for n in operands if n not in reached]
        reached.update(operands)
    return reached | {user for node in reached for user in node.users if user.target is ops.stop}


def refuse_past_hooks(tracer: Tracer) -> None:
    """The program has run: no gradient may come to a tensor past its hook.

    Raises:
        CaptureError: one does.
    """
    for early, here in tracer.past_hooks:
        reached, waiting = set(early), list(early)
        while waiting:
            following = [n for n in waiting.pop().users if n not in reached and n.target not in (ops.stop, ops.no_grad)]
            reached.update(following)
            waiting += following
        if any(node.op == "output" for node in reached):
            raise CaptureError(
                f"{here} registers a hook on a tensor that was used before what the hook reads was computed; "
                "register it where the tensor is made"
            )


def _here() -> str:
    source, line = caller()
    return f"{source} ({line})"


def _register(table: Any, hook: Any) -> Any:
    tracer = current()
    if tracer is not None and tracer.stops and not tracer.own_node:
        raise CaptureError(
            f"{_here()} puts a hook on a node of autograd's graph (grad_fn), which a graph of ours does not have; put "
            "it on the tensor (y.register_hook), or on a module with register_full_backward_hook"
        )
    table, handle = register_hook(table, hook)
    if tracer is not None:
        tracer.handles[id(handle)] = handle, name_of(hook)
    return table, handle


REGISTER = Interposed(torch.autograd.Function, register_hook.__name__, staticmethod(_register))


@contextmanager
def histories() -> Iterator[None]:
    """While open, applications of Functions, hooks and compiled functions of this thread are seen."""
    with together(APPLY, ENTER, EXIT, REGISTER, FUNCTION, METHOD, TRACKED):
        yield
