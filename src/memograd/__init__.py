"""memograd: backpropagation as the chain rule, applied recursively over a graph, with every result remembered."""

from memograd.collector import no_collection

with no_collection():  # what is imported stays
    from memograd import rules as _rules  # noqa: F401  (fills the derivative table)
    from memograd import testing
    from memograd.adjoint.products import count_products
    from memograd.doctor.diagnose import diagnose
    from memograd.errors import (
        BackendError,
        BudgetInfeasibleError,
        CaptureError,
        DataError,
        GradientMismatchError,
        GraphError,
        MemogradError,
        MissingRuleError,
        NonFiniteError,
        NotDifferentiableError,
        OpaqueBackwardError,
        PlanViolationError,
        ProductLimitError,
        RuleError,
    )
    from memograd.explain.page import Page, explain
    from memograd.frontend.wrap import unwrap, wrap
    from memograd.graph.graph import Graph
    from memograd.inspection.preflight import preflight
    from memograd.memory.bare_graphs import plan_graph
    from memograd.memory.plan import Plan
    from memograd.pipeline import capture, differentiate
    from memograd.rules.registry import rule
    from memograd.train.largest import largest_batch
    from memograd.train.loop import train_model
    from memograd.train.planning import plan
    from memograd.train.step import TrainStep
    from memograd.train.update import update_rule
    from memograd.transforms.grad import grad, grad_and_value, value_and_grad
    from memograd.transforms.jacobian import hessian, jacfwd, jacrev
    from memograd.transforms.jvp import hvp, jvp, linearize
    from memograd.transforms.vjp import vjp

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BudgetInfeasibleError",
    "CaptureError",
    "DataError",
    "GradientMismatchError",
    "Graph",
    "GraphError",
    "MemogradError",
    "MissingRuleError",
    "NonFiniteError",
    "NotDifferentiableError",
    "OpaqueBackwardError",
    "Page",
    "Plan",
    "PlanViolationError",
    "ProductLimitError",
    "RuleError",
    "TrainStep",
    "capture",
    "count_products",
    "diagnose",
    "differentiate",
    "explain",
    "grad",
    "grad_and_value",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "largest_batch",
    "linearize",
    "plan",
    "plan_graph",
    "preflight",
    "rule",
    "testing",
    "train_model",
    "unwrap",
    "update_rule",
    "value_and_grad",
    "vjp",
    "wrap",
]
