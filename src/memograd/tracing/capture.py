"""Capture: a callable or ``nn.Module`` and example inputs become a functional ATen graph.

The program runs once on fake tensors under a tracer. Autograd is on, and parameters and the inputs to be differentiated
require gradients exactly as in a real training step, because programs ask (``torch.is_grad_enabled``,
``requires_grad``), because some operators refuse a target that does, and because a custom ``autograd.Function`` that
returns its input shows itself only then.

A program whose shape or control flow depends on values cannot run on fake tensors. ``concrete`` runs it on copies of
the tensors themselves; the graph is then right for these values only.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from memograd._torch import (
    FAKE,
    UNSUPPORTED,
    copy_of,
    fake_like,
    forget_shapes,
    is_fake,
    needs_data,
    outside_torch_func,
    pytree,
    quiet,
    unseen,
)
from memograd.draws import same_draws
from memograd.errors import CaptureError, DataDependentError, MemogradError, add_note
from memograd.graph.entries import Calling, Input, InputKind, Output
from memograd.graph.graph import Graph
from memograd.tracing.chance import no_seeds
from memograd.tracing.closures import Closure, closure_of
from memograd.tracing.counters import number
from memograd.tracing.cudnn import plain_recurrence
from memograd.tracing.effects import Change, Templates, effects_of, take_back
from memograd.tracing.guards import Guards, taken_twice
from memograd.tracing.histories import Histories, histories
from memograd.tracing.plainly import raised_by_pytorch
from memograd.tracing.processes import refuse_spread
from memograd.tracing.provenance import caller, raised_at
from memograd.tracing.reads import Reads
from memograd.tracing.substitute import Substitute, with_history
from memograd.tracing.tracer import Tracer
from memograd.tracing.under_way import ACTIVE, TURN, looking_away
from memograd.tracing.unseen import Unseen

_SHAPES = 20_000  # operators on shapes that PyTorch may remember: some kilobytes each


class _Program(nn.Module):
    """A callable and the modules it closes over, as one module, so that parameters can be swapped in it."""

    def __init__(self, function: Callable[..., Any], modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    __call__ = forward  # hooks for every module there is are none for this one


def trace(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wrt: Collection[int] | None = None,
    concrete: bool = False,
) -> Graph:
    """The graph that ``f(*args, **kwargs)`` computes.

    Args:
        f: an ``nn.Module``, or a function of tensors or pytrees of tensors. Parameters of modules that the function
            closes over are parameters of the graph. Leaves that are no tensors are baked in.
        args, kwargs: example inputs; their values do not matter, only structure, shapes, strides, dtypes, devices.
        wrt: which leaves of ``(args, kwargs)`` may be differentiated, by position. Default: those that require
            gradients, or all floating-point ones where none does.
        concrete: run on the values of the example inputs, and let them decide shapes and branches: the graph computes
            this one call. The state of PyTorch's random generators is left as it was.

    Returns:
        A functional graph; nodes carry ``val``, ``module`` (dotted path) and ``source`` (``file:line``).

    Raises:
        DataDependentError: control flow or shapes depend on values, and ``concrete`` is false.
        CaptureError: an operator cannot be traced, or the program raised though PyTorch can run it.
        Exception: what the program raises in plain PyTorch too, with a note that says where.
    """
    FAKE.prepare()  # ahead of everything that watches what the program does and reads
    forget_shapes(_SHAPES)
    closure = Closure({"": f}, {}) if isinstance(f, nn.Module) else closure_of(f)
    one = _Capture(f, closure, concrete)
    try:
        with looking_away(), same_draws() if concrete else nullcontext():
            return one.run(args, kwargs, wrt)
    except CaptureError as error:
        if not hasattr(one, "reads"):
            raise  # an argument is refused: nothing has run
        taken = one.reads.states.taken
        if one.reads.counters.handed and not taken and not isinstance(error, DataDependentError):
            one.reads.counters.forget()  # something may want a number that is one
            return trace(f, args, kwargs, wrt, concrete)
        if taken and (error.raised is not None or isinstance(error, DataDependentError)):
            raise CaptureError(taken_twice(taken[0])) from (error.raised or error)
        if error.raised is None or ACTIVE.tracers:  # who captures around it will run both
            raise
        refused, raised = error, error.raised
    finally:
        one.tracer.lift = None  # no circle: what the program has met is let go at once, weak references to it end
    raise one.raised_by_pytorch(args, kwargs, wrt, raised) or refused


class _Capture:
    def __init__(self, f: Callable[..., Any], closure: Closure, concrete: bool) -> None:
        self.f = f
        self.closure = closure
        self.root = f if isinstance(f, nn.Module) else _Program(f, closure.modules)
        self.graph = fx.Graph()
        self.inputs: list[Input] = []
        self.first_operator: fx.Node | None = None
        self.tracer = Tracer(self.graph, lift=self._lift, stops=True, concrete=concrete)
        self.stand_in = copy_of if concrete else fake_like
        self.stand_ins: dict[int, str] = {}  # names of inputs by id of what stands for them
        self.stood_for: dict[fx.Node, torch.Tensor] = {}
        self.users: set[int] = set()  # ids of the user's tensors that the program has used
        self.roots: list[tuple[str, Any]] = [("", f)]
        self.reads = Reads([])
        self.changes: list[Change] = []

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], wrt: Collection[int] | None) -> Graph:
        leaves, in_spec = pytree.tree_flatten((args, kwargs))
        names = leaf_names(self.f, args, kwargs)
        wrt = _differentiable(leaves) if wrt is None else wrt
        self._parameters()
        flat = [
            self._input(leaf, name, position in wrt) if isinstance(leaf, torch.Tensor) else leaf
            for position, (leaf, name) in enumerate(zip(leaves, names, strict=True))
        ]
        self.roots += [(name, x) for x, name in zip(leaves, names, strict=True) if not isinstance(x, torch.Tensor)]
        own_args, own_kwargs = pytree.tree_unflatten(flat, in_spec)
        out = self._trace(own_args, own_kwargs)
        out_leaves, out_spec = pytree.tree_flatten(out)
        out_leaves = list(map(number, out_leaves))
        outputs, results, tensor_out = [], [], []
        for i, leaf in enumerate(out_leaves):
            if isinstance(leaf, torch.Tensor):
                results.append(self.tracer.node_of(leaf))
                name = f"output_{len(outputs)}" if len(out_leaves) > 1 else "output"
                outputs.append(Output("output", name, leaf.requires_grad))
                tensor_out.append(i)
        self._mutations(outputs, results)
        self.reads.counted_up(self.changes)
        templates = Templates(self.reads, self.stand_ins, self._is_captured)
        effects = effects_of(self.changes, templates, out_leaves)
        for k, tensor in enumerate(templates.left):
            outputs.append(Output("left", f"left {k}", tensor.requires_grad))
            results.append(self.tracer.node_of(tensor))
        self.graph.output(tuple(results))
        calling = Calling(
            in_spec=in_spec,
            in_leaves=tuple(None if isinstance(x, torch.Tensor) else x for x in leaves),
            in_names=tuple(names),
            out_spec=out_spec,
            out_leaves=tuple(None if isinstance(x, torch.Tensor) else x for x in out_leaves),
            tensor_in=tuple(i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)),
            tensor_out=tuple(tensor_out),
        )
        inputs = tuple(replace(i, place=self.reads.tensors.get(id(i.tensor))) for i in self.inputs)
        guards = Guards(self.reads)
        return Graph(self.graph, inputs, tuple(outputs), calling, guards=guards, effects=effects).verify()

    def _trace(self, args: Any, kwargs: Any) -> Any:
        ACTIVE.tracers.append(self.tracer)
        try:
            with ExitStack() as contexts:
                for context in self._contexts():
                    contexts.enter_context(context)
                return self.root(*args, **kwargs)
        except DataDependentError as error:
            error.guards = Guards(self.reads)
            raise
        except MemogradError:
            raise
        except UNSUPPORTED as error:
            ours = CaptureError(f"an operator cannot be captured{self._where(error)}: {_first_line(error)}")
            ours.raised = error
            raise ours from error
        except Exception as error:
            message = f"{type(error).__name__}: {_first_line(error)}"
            kind = DataDependentError if needs_data(error) else CaptureError
            ours = kind(f"the program raised while it was captured{self._where(error)}: {message}")
            if isinstance(ours, DataDependentError):
                ours.guards = Guards(self.reads)
            else:
                ours.raised = error
            raise ours from error
        finally:
            ACTIVE.tracers.pop()

    def _contexts(self) -> Iterator[AbstractContextManager[Any]]:
        """What is in force while the program runs; what comes last sees its calls first."""
        yield TURN
        yield self._isolated()
        yield nothing_compiled()
        yield no_seeds(self.tracer)
        yield torch.set_grad_enabled(torch.is_grad_enabled())  # put back if the program fails or forgets to
        yield quiet()
        if not self.tracer.concrete:
            yield FAKE
        yield self.tracer
        yield histories()
        yield Unseen(self.tracer)
        yield Histories(self.tracer)
        yield self.tracer.modules.follow(self.root)
        yield plain_recurrence()
        yield Substitute(self.tracer, grad_asked=self._grad_asked)
        yield self.reads.recording()

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """What the program changes is as it was afterwards."""
        self.reads = Reads(self.roots, counts=True)
        try:
            yield
        except BaseException:
            self.reads.states.put_back()
            raise
        finally:
            self.changes = take_back(self.reads)

    def raised_by_pytorch(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], wrt: Collection[int] | None, raised: Exception
    ) -> Exception | None:
        """What PyTorch raises of the kind that was ``raised`` here, with a note that says where; None if nothing."""
        used = [i.tensor for i in self.inputs if i.tensor is not None]
        wrt = _differentiable(pytree.tree_leaves((args, kwargs))) if wrt is None else wrt
        own = raised_by_pytorch(self.root, args, kwargs, wrt, type(raised), used)
        note = f"memograd was capturing the program{self._where(raised)}; in plain PyTorch it raises this, too"
        if own is not None:
            add_note(own, note)
        return own

    def _where(self, error: Exception) -> str:
        source, line = raised_at(error)
        module = self.tracer.modules.failed
        place = f" at {source} ({line})" if line else ""
        return f"{f' in module {module!r}' if module else ''}{place}"

    # -- inputs --------------------------------------------------------------------------------------------------

    def _parameters(self) -> None:
        """Placeholders for parameters and buffers; tied ones share one."""
        named: list[tuple[InputKind, str, torch.Tensor]] = []
        named.extend(("parameter", *p) for p in self.root.named_parameters(remove_duplicate=False))
        named.extend(("buffer", *b) for b in self.root.named_buffers(remove_duplicate=False))
        position: dict[int, int] = {}
        for kind, name, tensor in named:
            if id(tensor) in position:
                at = position[id(tensor)]
                entry = self.inputs[at]
                self.inputs[at] = Input(entry.kind, entry.name, tensor, (*entry.aliases, name))
            else:
                refuse_spread(tensor, f"the {kind} {name!r}")
                position[id(tensor)] = len(self.inputs)
                stand_in = self.stand_in(tensor.detach())
                if kind == "parameter":
                    stand_in = nn.Parameter(stand_in, requires_grad=tensor.requires_grad)
                self.users.add(id(tensor))
                self.tracer.alias(tensor, self._placeholder(Input(kind, name, tensor), stand_in))

    def _input(self, tensor: torch.Tensor, name: str, differentiable: bool) -> torch.Tensor:
        sparse = tensor.layout is torch.sparse_coo and not tensor.requires_grad and not differentiable
        if tensor.layout is not torch.strided and not sparse:
            message = f"argument {name!r} has layout {tensor.layout}, which cannot be captured"
            raise CaptureError(f"{message}; use x.to_dense()")
        self._check_ours(tensor, f"argument {name!r}")
        refuse_spread(tensor, f"argument {name!r}")
        self.tracer.offset_inputs |= not sparse and tensor.storage_offset() != 0
        stand_in = self.stand_in(tensor.detach())
        if differentiable or tensor.requires_grad:
            stand_in = with_history(stand_in)
        return self._placeholder(Input("input", name, fixed=not differentiable), stand_in)

    def _placeholder(self, entry: Input, stand_in: torch.Tensor) -> torch.Tensor:
        if self.first_operator is None:
            self.first_operator = next((n for n in self.graph.nodes if n.op == "call_function"), None)
        before = self.first_operator
        with self.graph.inserting_before(before) if before is not None else nullcontext():
            node = self.graph.placeholder(_identifier(entry.name))
        self.tracer.document(node, stand_in)
        if any(entry.name == i.name or entry.name in i.aliases for i in self.inputs):
            entry = replace(entry, name=f"{entry.name} ({entry.kind})")  # an argument called like a parameter
        self.inputs.append(entry)
        self.stand_ins[id(stand_in)] = entry.name
        self.stood_for[node] = stand_in
        return self.tracer.bind(stand_in, node)

    def _lift(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor the program uses without having been given it: a constant, or a parameter if it wants gradients."""
        kind = "parameter" if tensor.requires_grad and tensor.is_leaf else "constant"
        own = self.closure.tensors.get(id(tensor))
        name = own or f"constant_{sum(i.kind == 'constant' for i in self.inputs)}"
        if tensor.layout not in (torch.strided, torch.sparse_coo):
            message = f"the tensor {name!r}, which the program uses, has layout {tensor.layout}"
            raise CaptureError(f"{message}, which cannot be captured; use x.to_dense() or x.to_sparse()")
        self._check_ours(tensor, f"the tensor {name!r}, which the program uses,")
        refuse_spread(tensor, f"the tensor {name!r}, which the program uses,")
        self.users.add(id(tensor))
        stand_in = self.stand_in(tensor.detach())
        if tensor.requires_grad:
            with outside_torch_func():
                stand_in = stand_in.requires_grad_() if tensor.is_leaf else with_history(stand_in)
        stand_in = self._placeholder(Input(kind, name, tensor), stand_in)
        if own is None:
            self.tracer.lent(stand_in, tensor)
        return stand_in

    def _grad_asked(self, tensor: torch.Tensor) -> None:
        """The program reads ``tensor.grad``: of its own tensors, what it has put there; of the user's, nothing."""
        if self.tracer.is_own(tensor):
            return
        with unseen():
            there, own = tensor.grad, self.tracer.stand_in(tensor).grad
        if own is None and there is not None:
            source, line = caller()
            raise CaptureError(
                f"the program reads the gradient of a tensor {tuple(tensor.shape)} that it was not given, at {source} "
                f"({line}): pass it in as an argument, or set it to None before"
            )
        if own is None:
            self.reads.place(tensor, "grad", None, "a gradient", attribute=True)

    def _is_captured(self, tensor: torch.Tensor) -> bool:
        """Whether the program has computed ``tensor``."""
        return self.tracer.knows(tensor) and id(tensor) not in self.users

    def _check_ours(self, tensor: torch.Tensor, what: str) -> None:
        if is_fake(tensor) and not any(t is not self.tracer for t in ACTIVE.tracers):
            raise CaptureError(
                f"{what} belongs to a capture that is over or runs in another thread; do not keep tensors or start "
                "threads inside a captured program"
            )

    def _mutations(self, outputs: list[Output], results: list[fx.Node]) -> None:
        """Outputs for the inputs and buffers the program wrote to."""
        of = {node: entry for node, entry in zip(self.graph.find_nodes(op="placeholder"), self.inputs, strict=True)}
        for storage in self.tracer.storages():
            origin = storage.origin
            moved = self.tracer.moved.get(storage)
            if (storage.version or moved) and origin in of:
                outputs.append(Output("mutation", of[origin].name, self.stood_for[origin].grad_fn is not None))
                results.append(self.tracer.node_of(moved.tensor) if moved else storage.node)


def nothing_compiled() -> AbstractContextManager[Any]:
    """Inside, what ``torch.compile`` has made of a part of the program runs as the part itself."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _differentiable(leaves: list[Any]) -> set[int]:
    """What the caller may want to differentiate: what requires gradients, or else all floating-point tensors."""
    tensors = {i: x for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)}
    smooth = {i for i, x in tensors.items() if x.is_floating_point() or x.is_complex()}
    return {i for i in smooth if tensors[i].requires_grad} or smooth


def leaf_names(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A name for each leaf: the parameter's name, then the keys on the way down (``batch.labels``, ``x.0``)."""
    target = f.forward if isinstance(f, nn.Module) else f
    try:
        bound = [
            p.name
            for p in inspect.signature(target).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        bound = []
    heads = [bound[k] if k < len(bound) else f"arg{k}" for k in range(len(args))]
    named = [*zip(heads, args, strict=True), *kwargs.items()]
    return [".".join([str(head), *keys]) for head, value in named for keys in _keys(value)]


def _keys(tree: Any) -> list[list[str]]:
    """The keys on the way down to each leaf; positions in a container whose registration says nothing about keys."""
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:
        return [[str(k)] for k in range(len(pytree.tree_leaves(tree)))]
    return [[str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path] for path in paths]


def _identifier(name: str) -> str:
    """A Python identifier that reads like ``name``."""
    text = "".join(c if c.isalnum() else "_" for c in name) or "x"
    return text if not text[0].isdigit() else f"x_{text}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
