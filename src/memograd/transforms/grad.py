"""``grad`` and ``value_and_grad``: the gradient of a scalar function, one graph for value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.graph.graph import Graph, run
from memograd.pipeline import differentiate
from memograd.transforms.transform import Argnums, Transform, zeros_for


class _ValueAndGrad(Transform):
    def __init__(self, f: Callable[..., Any], argnums: Argnums, has_aux: bool) -> None:
        super().__init__(f, argnums)
        self.has_aux = has_aux

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        joint, names = self.cache.get(args, kwargs, lambda concrete: self.build(args, kwargs, concrete))
        flat_inputs = joint.bind(args, kwargs)
        out, gradients = joint.unpack(run(joint.function, flat_inputs), flat_inputs)
        flat = pytree.tree_leaves(tuple(args[a] for a in self.argnums_in(len(args))))
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
