"""Our own marks: identities on values that steer adjoints."""

from memograd import as_written, ops
from memograd.errors import OpaqueBackwardError
from memograd.looks import look
from memograd.rules.registry import constant, rule

constant(ops.bernoulli, formula="no adjoint: random draws")
constant(look, formula="no adjoint: the program looked at a value")
constant(ops.stop, formula="no adjoint: detach or .data stands here")
constant(ops.no_grad, formula="no adjoint: no_grad stands here")


@rule(ops.only_forward, formula="x̄ = ȳ: no_grad stands here, and does not stop tangents")
def only_forward(adjoint, y, x):
    return ops.only_forward(adjoint)


@rule(ops.written, formula="x̄_old = ȳ: a write under no_grad")
def written(adjoint, y, old, new):
    return adjoint, None


@rule(ops.written_forward, formula="x̄_new = ȳ: a write under no_grad, which does not stop tangents")
def written_forward(adjoint, y, old, new):
    return None, ops.only_forward(adjoint)


@rule(ops.overwrite, formula="x̄_old = ȳ: autograd does not see the write")
def overwrite(adjoint, y, old, new):
    return adjoint, None


@rule(ops.opaque, formula="error: what is behind it cannot be differentiated")
def opaque(adjoint, y, x, function, why):
    raise OpaqueBackwardError(f"an adjoint arrives at {function}, {why}")


@rule(as_written.call, formula="error: somebody's own backward, which is called as it is, has no derivative")
def call(adjoint, y, operands, code):
    raise OpaqueBackwardError(f"an adjoint arrives at {as_written.code_of(code).name}")
