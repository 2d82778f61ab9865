"""The formulas of optimizers' updates, on symbolic tensors: each new value as the paper and torch.optim have it.

A formula has the parameter ``p``, its gradient ``g``, the learning rate, the optimizer's state and the options of the
parameter's group; it returns the new parameter and the new state. ``state["shared_step"]`` is the number of this
update, from 1. What is computed of numbers alone is computed once, and the rest is one pass over each parameter.
"""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor
State = dict[str, Tensor]


def on(number: Any) -> bool:
    """Whether an option is not zero; one that is an input of the graph is not."""
    return isinstance(number, Tensor) or bool(number)


def sgd(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """v ← μ v + g;  p ← p - η (g + μ v if nesterov else v). Sutskever et al. 2013, as torch.optim.SGD has it."""
    new: State = {}
    g = decayed(p, g, group)
    if on(group["momentum"]):
        new["momentum_buffer"] = v = state["momentum_buffer"] * group["momentum"] + g
        g = g + group["momentum"] * v if group["nesterov"] else v
    return p - lr * g, new


def adam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  p ← p - η m̂ / (√v̂ + ε). Kingma & Ba 2015, algorithm 1; with
    ``decoupled_weight_decay`` Loshchilov & Hutter 2019, algorithm 2, which PyTorch calls AdamW."""
    p, g = decoupled(p, g, lr, group)
    beta1, beta2 = group["betas"]
    step = state["shared_step"].double()
    new = _moments(state, g, beta1, beta2)
    v = new["exp_avg_sq"]
    if group["amsgrad"]:
        new["max_exp_avg_sq"] = v = torch.maximum(state["max_exp_avg_sq"], v)
    denominator = root(v) / (1 - beta2**step).sqrt() + group["eps"]
    return p - (lr / (1 - beta1**step)) * (new["exp_avg"] / denominator), new


def adagrad(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """s ← s + g²;  p ← p - η / (1 + (t - 1) κ) · g / (√s + ε). Duchi et al. 2011, with a rate that decays by κ."""
    g = decayed(p, g, group)
    rate = lr / (1 + (state["shared_step"].double() - 1) * group["lr_decay"])
    new = torch.addcmul(state["sum"], g, g)
    return p - rate * (g / (root(new) + group["eps"])), {"sum": new}


def rmsprop(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """v ← α v + (1 - α) g²;  b ← μ b + g / (√v + ε);  p ← p - η b. Hinton 2012; centered as in Graves 2013."""
    g = decayed(p, g, group)
    new = {"square_avg": average_of_squares(state["square_avg"], g, group["alpha"])}
    v = new["square_avg"]
    if group["centered"]:
        new["grad_avg"] = mean = average(state["grad_avg"], g, group["alpha"])
        v = torch.addcmul(v, mean, mean, value=-1)
    g = g / (root(v) + group["eps"])
    if on(group["momentum"]):
        new["momentum_buffer"] = g = state["momentum_buffer"] * group["momentum"] + g
    return p - lr * g, new


def adamax(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """m ← β₁ m + (1 - β₁) g;  u ← max(β₂ u, |g| + ε);  p ← p - η / (1 - β₁ᵗ) · m / u. Kingma & Ba 2015, algorithm 2."""
    g = decayed(p, g, group)
    beta1, beta2 = group["betas"]
    m = average(state["exp_avg"], g, beta1)
    u = torch.maximum(state["exp_inf"] * beta2, g.abs() + group["eps"])
    rate = lr / (1 - beta1 ** state["shared_step"].double())
    return p - rate * (m / u), {"exp_avg": m, "exp_inf": u}


def nadam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """Adam with Nesterov's momentum, μₜ = β₁ (1 - 0.96^(t ψ) / 2). Dozat 2016, as torch.optim.NAdam has it."""
    p, g = decoupled(p, g, lr, group)
    beta1, beta2 = group["betas"]
    step, decay = state["shared_step"].double(), group["momentum_decay"]
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in (step, step + 1))
    new = _moments(state, g, beta1, beta2)
    new["mu_product"] = state["mu_product"] * mu.to(state["mu_product"].dtype)
    product = new["mu_product"].double()
    denominator = root(new["exp_avg_sq"] / (1 - beta2**step)) + group["eps"]
    p = p - (lr * (1 - mu) / (1 - product)) * (g / denominator)
    return p - (lr * mu_next / (1 - product * mu_next)) * (new["exp_avg"] / denominator), new


def radam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """Adam whose second moment counts only once enough of it was seen (ρₜ > 5). Liu et al. 2020, algorithm 2."""
    p, g = decoupled(p, g, lr, group)
    beta1, beta2 = group["betas"]
    step = state["shared_step"].double()
    new = _moments(state, g, beta1, beta2)
    correction = 1 - beta2**step
    most = 2 / (1 - beta2) - 1
    rho = most - 2 * step * beta2**step / correction
    rectified = ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)).sqrt() * correction.sqrt()
    adapted = torch.where(rho > 5, rectified / (root(new["exp_avg_sq"]) + group["eps"]), 1.0)
    return p - (lr / (1 - beta1**step)) * (new["exp_avg"] * adapted), new


# -- what several of them have in common ---------------------------------------------------------------------------


def decayed(p: Tensor, g: Tensor, group: dict[str, Any]) -> Tensor:
    """g + λ p: weight decay as part of the gradient."""
    return g + group["weight_decay"] * p if on(group["weight_decay"]) else g


def decoupled(p: Tensor, g: Tensor, lr: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The same, or p (1 - η λ) beside the gradient, as ``decoupled_weight_decay`` says."""
    if group.get("decoupled_weight_decay"):
        return (p * (1 - lr * group["weight_decay"]) if on(group["weight_decay"]) else p), g
    return p, decayed(p, g, group)


def root(v: Tensor) -> Tensor:
    """√v, in single precision correctly rounded: PyTorch's own is not, and no other kernel rounds as it does."""
    return v.double().sqrt().to(v.dtype) if v.dtype == torch.float32 else v.sqrt()


def average(old: Tensor, new: Tensor, beta: Any) -> Tensor:
    """β a + (1 - β) x."""
    if isinstance(beta, Tensor):  # a number that changes: lerp takes none of another precision
        return old + (1 - beta) * (new - old)
    return torch.lerp(old, new, 1 - beta)


def average_of_squares(old: Tensor, new: Tensor, beta: Any) -> Tensor:
    """β a + (1 - β) x²."""
    if isinstance(beta, Tensor):
        return old * beta + (1 - beta) * (new * new)
    return torch.addcmul(old * beta, new, new, value=1 - beta)


def _moments(state: State, g: Tensor, beta1: Any, beta2: Any) -> State:
    return {
        "exp_avg": average(state["exp_avg"], g, beta1),
        "exp_avg_sq": average_of_squares(state["exp_avg_sq"], g, beta2),
    }
