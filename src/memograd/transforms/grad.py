"""``grad`` and its companions: the gradient of a scalar function, one graph for value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.graph.own_memory import own_memory
from memograd.pipeline import differentiate
from memograd.tracing.undisturbed import ordinary_tensors
from memograd.transforms.surroundings import untraced
from memograd.transforms.transform import Argnums, Transform, zeros_for


class _GradAndValue(Transform):
    api = "grad_and_value(f)(*args)"

    @untraced
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with ordinary_tensors():
            points, spec = pytree.tree_flatten(self.points(args))
            program = self.program(args, kwargs)
            out, gradients = program.whole(args, kwargs)
            return pytree.tree_unflatten(zeros_for([gradients.get(n) for n in program.names], points), spec), out

    def differentiated(self, graph: Graph, names: list[str]) -> Graph:
        (loss,) = self.main(graph)
        return own_memory(differentiate(graph, names, of=loss), to_autograd=False)

    def main(self, graph: Graph) -> list[str]:
        names = super().main(graph)
        spec = graph.calling.out_spec
        if not (spec.children()[0] if self.has_aux else spec).is_leaf():
            raise GraphError(f"{self.api}: Expected f(*args) to return a Tensor, got a {spec.type.__name__}")
        value = next(n.meta["val"] for n, o in zip(graph.results, graph.outputs, strict=True) if o.name == names[0])
        if value.dim() != 0:
            raise GraphError(
                f"{self.api}: Expected f(*args) to return a scalar Tensor, one real number, got tensor with "
                f"{value.dim()} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
            )
        return names


class _Grad(_GradAndValue):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        gradient, out = super().__call__(*args, **kwargs)
        return (gradient, out[1]) if self.has_aux else gradient


class _ValueAndGrad(_GradAndValue):
    takes_any_aux = True  # a name of JAX's, with JAX's meaning

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        gradient, out = super().__call__(*args, **kwargs)
        return out, gradient


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


def grad_and_value(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Like ``grad``, with the same arguments and errors; ``g(*args)`` returns ``(gradients, value)``, or with
    ``has_aux`` ``(gradients, (value, aux))``."""
    return _GradAndValue(f, argnums, has_aux)


def value_and_grad(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Like ``grad``, with the same arguments and errors; ``g(*args)`` returns ``(value, gradients)``, or with
    ``has_aux`` ``((value, aux), gradients)`` as JAX does.

    ``torch.func`` has the two in the other order only; see ``grad_and_value``. Here, as in JAX, aux may hold anything;
    the transforms that ``torch.func`` has take tensors alone there, as it does.
    """
    return _ValueAndGrad(f, argnums, has_aux)
