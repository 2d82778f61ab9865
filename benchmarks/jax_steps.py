"""The lecture's three training steps and an MLP in JAX.

Each runner starts from the torch model's weights, so losses can be compared.

Max-pooling is written by reshaping, which is several times faster on CPUs than ``reduce_window``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from jax import lax
from workloads import Workload

Params = dict[str, jax.Array]
Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]


def xor_loss(p: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ p["fc1.weight"].T + p["fc1.bias"])
    q = jax.nn.sigmoid(h @ p["fc2.weight"].T + p["fc2.bias"])
    return -jnp.mean(y * jnp.log(q) + (1 - y) * jnp.log(1 - q))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def cnn_loss(p: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    h = lax.conv_general_dilated(x, p["conv1.weight"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    h = jax.nn.relu(h + p["conv1.bias"][:, None, None])
    h = h.reshape(len(x), 32, 14, 2, 14, 2).max((3, 5)).reshape(len(x), -1)
    return cross_entropy(h @ p["fc1.weight"].T + p["fc1.bias"], y)


def lstm_loss(p: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    def cell(state: tuple[jax.Array, jax.Array], row: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        h, c = state
        gates = row + h @ p["lstm.weight_hh_l0"].T
        i, f, g, o = jnp.split(gates, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    rows = x @ p["lstm.weight_ih_l0"].T + p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]
    zero = jnp.zeros((len(x), 64))
    (h, _), _ = lax.scan(cell, (zero, zero), rows.swapaxes(0, 1))
    return cross_entropy(h @ p["out.weight"].T + p["out.bias"], y)


def mlp_loss(p: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ p["0.weight"].T + p["0.bias"])
    h = jax.nn.relu(h @ p["2.weight"].T + p["2.bias"])
    return cross_entropy(h @ p["4.weight"].T + p["4.bias"], y)


LOSSES: dict[str, Loss] = {
    "XOR": xor_loss,
    "CNN, batch 64": cnn_loss,
    "LSTM, batch 64": lstm_loss,
    "MLP 64-128-128-10, batch 64": mlp_loss,
}


def sgd(p: Params, g: Params, state: dict, lr: float = 0.1) -> tuple[Params, dict]:
    return jax.tree.map(lambda p, g: p - lr * g, p, g), state


def adam(p: Params, g: Params, state: dict, lr: float = 0.001) -> tuple[Params, dict]:
    t = state["t"] + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["v"], g)
    rate, scale = lr / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
    new = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / scale + 1e-8), p, m, v)
    return new, {"m": m, "v": v, "t": t}


class JaxRunner:
    """``run(steps) -> last loss``, one jitted call a step, or one ``lax.scan`` over all of them."""

    def __init__(self, w: Workload, model: torch.nn.Module, scan: bool) -> None:
        self.p = {k: jnp.asarray(v.detach().numpy().copy()) for k, v in model.named_parameters()}
        m, v = (jax.tree.map(jnp.zeros_like, self.p) for _ in range(2))  # two copies: both are donated
        self.state = {} if w.name == "XOR" else {"m": m, "v": v, "t": jnp.zeros(())}
        self.x, self.y = jnp.asarray(w.x.numpy()), jnp.asarray(w.y.numpy())
        self.scan = scan
        loss, update = LOSSES[w.name], sgd if w.name == "XOR" else adam

        def step(p: Params, state: dict, x: jax.Array, y: jax.Array) -> tuple[Params, dict, jax.Array]:
            value, g = jax.value_and_grad(loss)(p, x, y)
            return (*update(p, g, state), value)

        def many(p: Params, state: dict, x: jax.Array, y: jax.Array, n: int) -> tuple[Params, dict, jax.Array]:
            def body(carry: tuple, _: None) -> tuple:
                p, state, value = step(*carry, x, y)
                return (p, state), value

            (p, state), values = lax.scan(body, (p, state), length=n)
            return p, state, values[-1]

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.many = jax.jit(many, static_argnums=4, donate_argnums=(0, 1))

    def run(self, steps: int) -> float:
        if self.scan:
            self.p, self.state, value = self.many(self.p, self.state, self.x, self.y, steps)
            return float(value)
        for _ in range(steps):
            self.p, self.state, value = self.step(self.p, self.state, self.x, self.y)
        return float(value)
