"""Function transforms with the names and semantics of ``torch.func``: functions in, functions out.

Each transform captures its function once per input signature (structure, shapes, strides, dtypes, devices, baked
values, what the function closes over), differentiates the graph and keeps it. A function whose shapes or control flow
depend on values (``x[mask]``, ``if x.sum() > 0``) is captured at each call, for the values of that call. Transforms
nest: one inside another is captured through, and the graphs of the inner one become part of the outer graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memograd._torch import pytree
from memograd.adjoint.partition import Halves, gather, partition
from memograd.errors import GraphError
from memograd.graph.graph import Graph, run
from memograd.pipeline import capture_for, differentiate
from memograd.tracing.reuse import Cache

Argnums = int | tuple[int, ...]


class _Transform:
    """A function of the same arguments as ``f``; holds the graphs made for it."""

    def __init__(self, f: Callable[..., Any], argnums: Argnums) -> None:
        if not callable(f):
            raise GraphError(f"expected a function or module, got {type(f).__name__}")
        self.f = f
        self.argnums = argnums
        self.cache = Cache(f)
        self.__name__ = f"{type(self).__name__.strip('_')}({getattr(f, '__name__', type(f).__name__)})"

    def capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], concrete: bool) -> tuple[Graph, list[str]]:
        """The graph of ``f``, and the names of its inputs that are leaves of the chosen arguments."""
        leaves = self.chosen(args)
        graph = capture_for(self.f, args, kwargs, leaves, concrete)
        return graph, self.selected(graph, args)

    def selected(self, graph: Graph, args: tuple[Any, ...]) -> list[str]:
        """Names of the graph's inputs that are leaves of the chosen arguments."""
        position_of = {leaf: k for k, leaf in enumerate(graph.calling.tensor_in)}
        inputs = [i.name for i in graph.inputs if i.kind == "input"]
        return [inputs[position_of[leaf]] for leaf in self.chosen(args)]

    def chosen(self, args: tuple[Any, ...]) -> list[int]:
        """Positions of the leaves to differentiate among those of all arguments."""
        counts = [len(pytree.tree_leaves(a)) for a in args]
        positions: list[int] = []
        for argnum in self._argnums(len(args)):
            start = sum(counts[:argnum])
            for leaf, value in enumerate(pytree.tree_leaves(args[argnum]), start):
                if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
                    raise GraphError(
                        f"argument {argnum} cannot be differentiated: it holds "
                        f"{value.dtype if isinstance(value, torch.Tensor) else type(value).__name__}; gradients exist "
                        "for floating-point and complex tensors (convert it with .float(), or leave it out of argnums)"
                    )
                positions.append(leaf)
        return positions

    def _argnums(self, count: int) -> list[int]:
        chosen = [self.argnums] if isinstance(self.argnums, int) else list(self.argnums)
        for argnum in chosen:
            if not -count <= argnum < count:
                raise GraphError(
                    f"argnums={self.argnums}, but the function was called with {count} positional arguments"
                )
        return [a % count for a in chosen]

    def pack(self, args: tuple[Any, ...], values: list[torch.Tensor]) -> Any:
        """Gradients nested like the chosen arguments."""
        chosen = tuple(args[a] for a in self._argnums(len(args)))
        packed = pytree.tree_unflatten(values, pytree.tree_structure(chosen))
        return packed[0] if isinstance(self.argnums, int) else packed


def zeros_for(values: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of inputs the result does not depend on are zeros."""
    return [torch.zeros_like(x) if v is None else v for v, x in zip(values, like, strict=True)]


class _ValueAndGrad(_Transform):
    def __init__(self, f: Callable[..., Any], argnums: Argnums, has_aux: bool) -> None:
        super().__init__(f, argnums)
        self.has_aux = has_aux

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        joint, names = self.cache.get(args, kwargs, lambda concrete: self.build(args, kwargs, concrete))
        flat_inputs = joint.bind(args, kwargs)
        out, gradients = joint.unpack(run(joint.function, flat_inputs), flat_inputs)
        flat = pytree.tree_leaves(tuple(args[a] for a in self._argnums(len(args))))
        packed = self.pack(args, zeros_for([gradients.get(n) for n in names], flat))
        return packed, out

    def build(self, args: tuple[Any, ...], kwargs: dict[str, Any], concrete: bool) -> tuple[Graph, list[str]]:
        graph, names = self.capture(args, kwargs, concrete)
        spec = graph.calling.out_spec
        children = spec.children()
        if self.has_aux and (spec.is_leaf() or len(children) != 2):
            raise GraphError("has_aux=True: the function must return a pair (loss, aux)")
        loss = children[0] if self.has_aux else spec
        if not loss.is_leaf():
            raise GraphError("the function must return one scalar tensor (or a pair of it and aux, with has_aux=True)")
        return differentiate(graph, names), names


class _Grad(_ValueAndGrad):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        gradient, out = super().__call__(*args, **kwargs)
        return (gradient, out[1]) if self.has_aux else gradient


def grad(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of the scalar ``f`` with respect to the arguments ``argnums``.

    Args:
        f: function of tensors or pytrees that returns one scalar tensor, or with ``has_aux`` a pair (scalar, aux).
        argnums: an int gives one gradient, a tuple a tuple of gradients; each nested like its argument.

    Returns:
        ``g(*args)``: gradients, or ``(gradients, aux)``. Inputs the result does not depend on get zeros.

    Raises:
        GraphError: the result is no scalar, or an argument cannot be differentiated.
        MissingRuleError, NotDifferentiableError, OpaqueBackwardError: no derivative is known on the path.
    """
    return _Grad(f, argnums, has_aux)


class _ValueThenGrad(_ValueAndGrad):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        gradient, out = super().__call__(*args, **kwargs)
        return out, gradient


def value_and_grad(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Like ``grad``, returning ``(value, gradients)``, or with ``has_aux`` ``((value, aux), gradients)`` as JAX does.

    ``torch.func`` has no such function; ``torch.func.grad_and_value`` returns the two in the other order.
    """
    return _ValueThenGrad(f, argnums, has_aux)


class _Vjp(_Transform):
    def build(self, args: tuple[Any, ...], concrete: bool) -> tuple[Graph, Halves, list[str]]:
        graph, names = self.capture(args, {}, concrete)
        joint = differentiate(graph, names, cotangents="output")
        return joint, partition(joint), names

    def forward(self, args: tuple[Any, ...], has_aux: bool = False) -> tuple[Any, Callable[..., Any]]:
        joint, halves, names = self.cache.get(args, {}, lambda concrete: self.build(args, concrete))
        flat = self._flat(joint, args)
        early = [t for t, i in zip(flat, joint.inputs, strict=True) if i.kind != "cotangent"]
        results, saved = gather(halves, early)
        joint.write_back(results, flat)
        values = [results[i] for i in joint.positions("output")]
        wanted = [i.name.removeprefix("cotangent of ") for i in joint.inputs if i.kind == "cotangent"]
        gradients = [joint.outputs[i].name for i in joint.positions("gradient")]
        outputs = joint.output_tree(values)

        def pull(cotangents: Any, *more: Any) -> Any:
            given = _cotangents(joint, values, wanted, (cotangents, *more) if more else cotangents)
            found = dict(zip(gradients, halves.backward(*saved, *given), strict=True))
            chosen = pytree.tree_leaves([args[a] for a in self._argnums(len(args))])
            return self.pack(args, zeros_for([found.get(n) for n in names], chosen))

        return outputs, pull

    def _flat(self, joint: Graph, args: tuple[Any, ...]) -> list[Any]:
        count = sum(i.kind == "cotangent" for i in joint.inputs)
        likes = [n.meta["val"] for n, i in zip(joint.placeholders, joint.inputs, strict=True) if i.kind == "cotangent"]
        return joint.bind(args, {}, likes if count else ())


def _cotangents(joint: Graph, values: list[torch.Tensor], wanted: list[str], given: Any) -> list[torch.Tensor]:
    """The cotangents of the smooth results, in order, checked against them."""
    leaves, spec = pytree.tree_flatten(given)
    calling = joint.calling
    if spec != calling.out_spec:
        raise GraphError(f"the cotangents have the structure {spec}, the results {calling.out_spec}")
    names = [joint.outputs[i].name for i in joint.positions("output")]
    by_name = dict(zip(names, (leaves[i] for i in calling.tensor_out), strict=True))
    for name, value in zip(names, values, strict=True):
        cotangent = by_name[name]
        if name in wanted and (cotangent.shape != value.shape or cotangent.dtype != value.dtype):
            raise GraphError(
                f"the cotangent of {name!r} has shape {tuple(cotangent.shape)} and dtype {cotangent.dtype}, the result "
                f"has {tuple(value.shape)} and {value.dtype}"
            )
    return [by_name[name].contiguous() for name in wanted]  # as it was traced: rules may take views of it


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``(outputs, vjp_fn)``: the value of ``f`` and the function that pulls cotangents back.

    Returns:
        outputs: ``f(*primals)``.
        vjp_fn: takes cotangents nested like the outputs, returns a tuple with one gradient for each primal. What the
            forward pass computed (random masks too) is remembered, so it may be called several times.
    """
    return _Vjp(f, tuple(range(len(primals)))).forward(primals)


class _Jvp(_Transform):
    """J t as the vjp of the vjp: u -> Jᵀu is linear, and the adjoint of a linear map is its transpose."""

    def build(self, args: tuple[Any, ...], concrete: bool) -> Graph:
        graph, names = self.capture(args, {}, concrete)
        pulled = differentiate(graph, names, cotangents="output")
        ways = [i.name for i in pulled.inputs if i.kind == "cotangent"]
        return differentiate(pulled, ways, cotangents="gradient")

    def __call__(self, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        graph = self.cache.get(primals, {}, lambda concrete: self.build(primals, concrete))
        names = self.selected(graph, primals)
        by_name = dict(zip(names, pytree.tree_leaves(tangents), strict=True))
        extra = []
        for node, entry in zip(graph.placeholders, graph.inputs, strict=True):
            if entry.kind == "cotangent":
                name = entry.name.removeprefix("cotangent of ")
                value = node.meta["val"]
                dummy = torch.zeros(value.shape, dtype=value.dtype, device=value.device)
                extra.append(by_name.get(name, dummy).contiguous())
        flat = graph.bind(primals, {}, extra)
        results = run(graph.function, flat)
        graph.write_back(results, flat)
        values = [results[i] for i in graph.positions("output")]
        pushed = {graph.outputs[i].name.removeprefix("cotangent of "): results[i] for i in graph.positions("gradient")}
        names_out = [graph.outputs[i].name for i in graph.positions("output")]
        tangents_out = [
            pushed[n] if n in pushed else torch.zeros_like(v) for n, v in zip(names_out, values, strict=True)
        ]
        return graph.output_tree(values), graph.output_tree(tangents_out)


def jvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """``(outputs, J · tangents)``: the directional derivative of ``f`` at ``primals``.

    There is no second table of forward rules: it is the vjp of the vjp (Christianson; J. Townsend 2017).

    Raises:
        GraphError: primals and tangents do not match.
    """
    primals, tangents = _as_tuple(primals, "primals"), _as_tuple(tangents, "tangents")
    if pytree.tree_structure(primals) != pytree.tree_structure(tangents):
        raise GraphError("primals and tangents must be nested alike")
    for p, t in zip(pytree.tree_leaves(primals), pytree.tree_leaves(tangents), strict=True):
        if p.shape != t.shape or p.dtype != t.dtype:
            raise GraphError(
                f"a tangent of shape {tuple(t.shape)}, {t.dtype} for a primal of {tuple(p.shape)}, {p.dtype}"
            )
    return _Jvp(f, tuple(range(len(primals))))(primals, tangents)


def hvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """Hessian-vector product of the scalar ``f``: the jvp of its gradient. Nested like ``primals``.

    Args:
        primals, tangents: a tuple of arguments (or one tensor) and a direction for each.
    """
    single = isinstance(primals, torch.Tensor)
    points = (primals,) if single else tuple(primals)
    ways = (tangents,) if isinstance(tangents, torch.Tensor) else tuple(tangents)
    product = jvp(grad(f, argnums=tuple(range(len(points)))), points, ways)[1]
    return product[0] if single else product


class _Jacrev(_Transform):
    def __init__(self, f: Callable[..., Any], argnums: Argnums) -> None:
        super().__init__(f, argnums)
        self.pullback = _Vjp(f, argnums)

    def __call__(self, *args: Any) -> Any:
        outputs, pull = self.pullback.forward(args)
        leaves, spec = pytree.tree_flatten(outputs)
        rows_of = []
        for position, leaf in enumerate(leaves):
            rows = []
            for k in range(leaf.numel()):
                seeds = [torch.zeros_like(x) for x in leaves]
                seeds[position] = _unit(leaf, k)
                rows.append(pull(pytree.tree_unflatten(seeds, spec)))
            rows_of.append(self._stack(rows, leaf, args))
        return pytree.tree_unflatten(rows_of, spec)

    def _stack(self, rows: list[Any], leaf: torch.Tensor, args: tuple[Any, ...]) -> Any:
        """Rows of the Jacobian, as ``[*leaf.shape, *argument.shape]`` for each argument."""
        chosen = tuple(args[a] for a in self._argnums(len(args)))
        template = chosen[0] if isinstance(self.argnums, int) else chosen
        flat = [pytree.tree_leaves(row) for row in rows]
        stacked = []
        for i, x in enumerate(pytree.tree_leaves(template)):
            shape = (*leaf.shape, *x.shape)
            stacked.append(torch.stack([r[i] for r in flat]).reshape(shape) if flat else x.new_zeros(shape))
        return pytree.tree_unflatten(stacked, pytree.tree_structure(template))


def _unit(leaf: torch.Tensor, k: int) -> torch.Tensor:
    index = torch.arange(leaf.numel(), device=leaf.device)
    return (index == k).to(leaf.dtype).reshape(leaf.shape)


def jacrev(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The Jacobian of ``f``, row by row in reverse mode: shape ``[*output.shape, *argument.shape]``."""
    return _Jacrev(f, argnums)


def hessian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The second derivative of ``f``: the Jacobian of its Jacobian."""
    return jacrev(jacrev(f, argnums), argnums)


def _as_tuple(value: Any, what: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise GraphError(f"{what} must be a tuple with one entry for each argument, got {type(value).__name__}")
    return tuple(value)
