"""Further families of lines: tensors turned in place, complex numbers, order and scans, what looks at values, functions
with a backward of their own, checkpoints, hooks, batches of ``vmap``, statistics, state in containers."""

from __future__ import annotations

from typing import Any

from idioms.drawn import GIVEN, Drawn
from idioms.expressions import expression, latest, pick
from idioms.writes import assigned, method


def _own(p: Drawn) -> list[str]:
    """Names of frames that may be written to."""
    return [k for k in p.named(p.B, p.T) if k not in GIVEN] or ["y0"]


def turned(draw: Any, p: Drawn) -> None:
    """A tensor is turned where it is, with views of it made before, and written to after."""
    base, name, row = latest(draw, _own(p)), p.new(), p.new() + "r"
    seen = pick(draw, "[0]", "[:, 0]", ".view(-1)", ".detach()", "[..., 1:]", ".unsqueeze(0)", ".diagonal()")
    turn = pick(draw, "t_()", "transpose_(0, 1)", "unsqueeze_(0)", "unsqueeze_(-1)", "swapaxes_(0, 1)", "squeeze_()")
    write = pick(draw, f"{row}.mul_(2)", f"{name}.mul_(w[0])", f"{name}[0] = 0.5", f"{row}.copy_({row} * w[0])", "pass")
    back = pick(draw, "pass", f"{name}.t_()", f"{name}.squeeze_(0)", f"{row}.unsqueeze_(0)")
    made = pick(draw, f"{base} * 1", f"{base}.clone()", base, f"torch.zeros_like({base}).add_(x)")
    p.attempt(f"{name} = {made}", f"{row} = {name}{seen}", f"{name}.{turn}", write, back, f"{row} = {row} * 1")


COMPLEX = [
    "z * (1 + 2j)",
    "torch.fft.fft(z)",
    "z.conj() * z + z",
    "z.exp()",
    "z / (2 + z.abs())",
    "z.pow(2)",
    "z.cumsum(-1)",
]
COMPLEX += [
    "z.resolve_conj()",
    "torch.fft.ifft2(z)",
    "z.clone()",
    "z.sin()",
    "torch.where(z.real > 0, z, 2 * z)",
    "z.flip(0)",
]
WRITTEN = ["z.real.mul_({F})", "z.imag[:, 0] = {C}", "z[0] = {R}", "z.mul_(1j)", "z.conj().add_({F})", "z.imag.zero_()"]
WRITTEN += [
    "torch.view_as_real(z)[..., 0] += {F}",
    "z[x > 0] = 0.5j",
    "z += z.conj()",
    "z.conj()[:, 1:] *= 2",
    "z.real.t_()",
]
REAL = ["z.abs()", "z.real", "z.imag * w", "(z * z.conj()).real", "z.angle()", "torch.view_as_real(z).sum(-1)"]
REAL += [
    "torch.fft.irfft(torch.fft.rfft(x) * z[:, :1], T)",
    "torch.einsum('bt,bt->bt', z, z).real",
    "(z @ z.mH).real @ x",
]


def complex_numbers(draw: Any, p: Drawn) -> None:
    """Out of real numbers, through operators and writes to parts of them, and back."""
    made = pick(
        draw, "torch.complex({F}, {F})", "torch.polar({F}.abs() + 0.5, {F})", "torch.fft.fft({F})", "{F} + 1j * w"
    )
    lines = [f"z = {_filled(draw, p, made)}"]
    lines += [f"z = {pick(draw, *COMPLEX)}"] * pick(draw, 0, 1)
    lines += [_filled(draw, p, pick(draw, *WRITTEN))] * pick(draw, 0, 1, 1)
    p.attempt(*lines, f"{p.new()} = {pick(draw, *REAL)}")


def _filled(draw: Any, p: Drawn, form: str) -> str:
    return form.format(**{k: f"({expression(draw, p, k, depth=1)})" for k in "FRCS" if f"{{{k}}}" in form})


ORDERED = ["{F}.topk(2, 1).values.sum(1, keepdim=True) * w", "{F}.sort(0, descending=True).values", "{F}.msort()"]
ORDERED += ["{F}.median(1).values[:, None] * x", "{F}.kthvalue(1, 1).values[:, None] + w", "{F}.cummax(1).values"]
ORDERED += ["{F}.cummin(0).values", "{F}.cumprod(-1)", "{F}.logcumsumexp(1)", "{F}.diff(dim=1, prepend=x[:, :1])"]
ORDERED += ["{F}[{F}.argsort(0)[:, 0]]", "{F}.gather(1, {F}.argsort(1))", "{F}.take_along_dim({F}.argsort(1), 1)"]
ORDERED += [
    "{F}.quantile(0.3, dim=0) * x",
    "{F}.aminmax(dim=1).max[:, None] - x",
    "torch.trapezoid({F}, dim=1)[:, None] * w",
]
CONTRACTED = ["torch.einsum('bt,ts,s->bs', {F}, W, w)", "torch.einsum('bt,bs->ts', {F}, x)[:1] * x", "{F} @ W @ W.mT"]
CONTRACTED += [
    "torch.einsum('tt->t', W) * {F}",
    "torch.tensordot({F}, W, 1)",
    "torch.baddbmm({F}[None], x[None], W[None])[0]",
]
CONTRACTED += ["F.bilinear({F}, x, W[None].expand(2, T, T))[:, :1] * x", "torch.cdist({F}, x + 3)[:, :1] * w"]
CONTRACTED += ["F.scaled_dot_product_attention({F}[None], x[None], x[None])[0]", "torch.kron({F}, w[None])[:, :T]"]
PADDED = [
    "F.pad({F}, (1, 1))[:, 1:-1]",
    "F.pad({F}[None], (1, 0), mode='replicate')[0][:, :-1]",
    "{F}.unfold(1, 2, 1).sum(-1)[:, :1] * w",
]
PADDED += [
    "F.conv1d({F}[:, None], w[None, None, :1])[:, 0]",
    "F.interpolate({F}[:, None], size=T, mode='linear')[:, 0]",
]
PADDED += [
    "F.max_pool1d({F}[:, None], 2, 1, 1)[:, 0, :T]",
    "F.avg_pool1d({F}[None], 1)[0]",
    "F.fold(F.unfold({F}[None, None], 1), (B, T), 1)[0, 0]",
]
PADDED += [
    "F.group_norm({F}, 1)",
    "F.rms_norm({F}, (T,))",
    "F.batch_norm({F}, s, s.square() + 1, training=True)",
    "F.instance_norm({F}[None])[0]",
]
PADDED += [
    "F.batch_norm({F}, None, None, w, training=True)",
    "F.dropout1d({F}[None], 0.5)[0]",
    "F.rrelu({F}, training=True)",
]


def operators(draw: Any, p: Drawn) -> None:
    """Order, scans, contractions, layers."""
    p.attempt(f"{p.new()} = {_filled(draw, p, pick(draw, *ORDERED, *CONTRACTED, *PADDED))}")


def values(draw: Any, p: Drawn) -> None:
    """Lines that look at values: branches, loops that stop, masks, numbers taken out."""
    f, name = f"({expression(draw, p, 'F', depth=1)})", p.new()
    forms = [
        [f"{name} = {f}", f"while {name}.norm() > 1.5:\n    {name} = {name} * 0.5"],
        [
            f"{name} = x * 1",
            f"for t in range(T):\n    if {f}[:, t].sum() > 0.3:\n        break\n    {name}[:, t] *= w[t]",
        ],
        [f"{name} = {f}", f"if {name}.sum() > 0:\n    {name} = {name}.tanh()\nelse:\n    {name}.mul_(2)"],
        [f"m = {f} > 0", f"{name} = x * m.sum().item()", f"if m.any():\n    {name} = {name} + x[m].mean()"],
        [
            f"i = ({f} > 0).nonzero()",
            f"{name} = torch.zeros_like(x)",
            f"{name}[i[:, 0], i[:, 1]] = x[i[:, 0], i[:, 1]].sin()",
        ],
        [f"k = int({f}.argmax()) % T", f"{name} = x.roll(k, 1) * w[k]"],
        [
            f"u, i = {f}[:, 0].round().unique(return_inverse=True)",
            f"{name} = torch.zeros(len(u), T).index_add_(0, i, x)[i]",
        ],
        [f"{name} = {f}.masked_select(x > 0).sum() * x"],
        [f"{name} = torch.stack([r.sum() * r if r.sum() > 0 else -r for r in {f}.unbind(0)])"],
        [
            f"{name} = x * 1",
            f"try:\n    assert {f}.sum() < 0\n    {name}[0] = 1\nexcept AssertionError:\n    {name}[0] = w",
        ],
        [f"a = {f}.detach().numpy().mean()", f"{name} = x * float(a)"],
        [f"a = {f}.detach().tolist()", f"{name} = x * a[0][0]"],
        [f"{name} = x[{f}[:, 0] > 0].sum(0) * x"],
        [f"{name} = x.repeat_interleave(1 + ({f}[:, 0] > 0).long(), 0).mean(0) * x"],
    ]
    p.attempt(*pick(draw, *forms))


def functions(draw: Any, p: Drawn) -> None:
    """Backwards of one's own, checkpoints, hooks, batches."""
    f, name = f"({expression(draw, p, 'F', depth=1)})", p.new()
    forms = [
        [f"{name} = Straight.apply({f})"],
        [f"{name} = Reversed.apply({f}, 0.5)"],
        [f"{name} = Cubed.apply({f})"],
        [f"{name}, inside = Clipped.apply({f})", f"{name} = {name} * inside"],
        [f"{name} = Reversed.apply({f}, 2.0)", f"{name}.mul_(w)"],
        [f"{name} = checkpoint(lambda a: F.dropout(a, 0.5).sin() * w, {f}, use_reentrant=False)"],
        [f"{name} = checkpoint(lambda a, b: Cubed.apply(a) * b, {f}, w, use_reentrant=False)"],
        [
            f"{name} = {f}",
            f"if {name}.requires_grad:\n    {name}.register_hook(lambda g: g * 0.5)",
            f"{name} = {name}.sin()",
        ],
        [
            f"{name} = {f} * 1",
            f"if {name}.requires_grad:\n    {name}.register_hook(lambda g: g.clamp(-1, 1))",
            f"{name}.mul_(2)",
        ],
        [f"{name} = torch.func.vmap(lambda r: r.cumsum(0) * w)({f})"],
        [f"{name} = torch.func.vmap(lambda r, q: (r * q).sum() * r, in_dims=(0, None))({f}, w)"],
        [f"{name} = torch.func.vmap(torch.func.grad(lambda r: (r.sin() * w).sum()))({f})"],
        [f"{name} = torch.func.jvp(torch.sin, ({f},), (x,))[1]"],
        [f"{name} = torch.func.jacrev(lambda r: r.tanh() * w)({f}[0]) @ w * x"],
    ]
    p.attempt(*pick(draw, *forms))


def state(draw: Any, p: Drawn) -> None:
    """Values in dicts, lists and tuples, names that are swapped, parts written in turn."""
    f, g = f"({expression(draw, p, 'F', depth=1)})", f"({expression(draw, p, 'F', depth=1)})"
    name = p.new()
    forms = [
        [f"d = dict(a={f}, b={g})", "d['a'], d['b'] = d['b'], d['a'] * 2", f"{name} = d['a'] + d.pop('b')"],
        [
            f"d = {{k: v for k, v in enumerate({f}.unbind(0))}}",
            "d[0] = d[0] * w",
            f"{name} = torch.stack(list(d.values()))",
        ],
        [f"q = [{f} * 1]", "q.append(q[-1])", "q[0].mul_(2)", f"{name} = q[1] + q[0]"],
        [f"a, b = {f} * 1, {g} * 1", "a, b = b, a", "a.add_(b)", f"{name} = a * b"],
        [f"a = {f} * 1", "b = a", "b += 1", f"{name} = a * w"],
        [f"a = {f} * 1", "b = a[:, :1]", "a = a + 1", "b.mul_(3)", f"{name} = a * b"],
        [f"{name} = torch.cat([c.mul_(k + 1) for k, c in enumerate(({f} * 1).split(1, 1))], 1)"],
        [f"{name} = {f} * 1", f"for k, c in enumerate({name}.unbind(1)):\n    c.add_(w[k])"],
        [f"{name} = {f} * 1", f"for r in {name}:\n    r *= w"],
        [f"{name} = {f} * 1", f"{name}[:, 1:] += {name}[:, :-1].clone()", f"{name}[:, :-1] -= {name}[:, 1:].detach()"],
        [f"{name} = {f} * 1", f"{name}.data = {g} * 1"],
        [f"{name} = {f} * 1", f"{name}.copy_({g}, non_blocking=True)", f"torch.add({name}, 1, out={name}.detach())"],
        [f"{name} = ({f} * 1).as_subclass(torch.Tensor)", f"{name}.requires_grad_(True).mean()"],
        [f"a = {f}.to(torch.float32)", f"{name} = (a * 1).add_({g}.to(a)).to(x)"],
        [f"{name} = torch.empty(B, T).copy_({f}.float())", f"{name} *= {g}.half().double() * 0 + 1"],
        [f"{name} = torch.stack([{f}, {g}]).unbind(0)[0].mul_(w)"],
        [f"{name} = torch._foreach_mul([{f}, {g}], 2.0)[1]"],
        [f"a, b = {f} * 1, {g} * 1", "torch._foreach_add_([a, b], [b, a])", f"{name} = a * b"],
        [f"{name} = {f} * 1", f"with torch.no_grad():\n    {name}.clamp_(-1, 1)", f"{name} = {name} ** 2"],
        [f"{name} = torch.utils._pytree.tree_map(lambda v: v * w, [{f}])[0]"],
        [
            f"{name} = sum(({f} * k for k in range(3)), start=x)",
            f"{name} = {name}.clone(memory_format=torch.contiguous_format)",
        ],
    ]
    p.attempt(*pick(draw, *forms))


def under_turn(draw: Any, p: Drawn) -> None:
    """A write and a method under ``autograd.set_grad_enabled`` of a decorator, or in inference mode."""
    name = p.new()
    body = p.body([f"{name} = {expression(draw, p, 'F')}", pick(draw, assigned, method)(draw, p), f"return {name}"])
    wrap = pick(draw, "@torch.no_grad()", "@torch.enable_grad()", "", "@torch.inference_mode(False)")
    p.attempt(f"{wrap}\ndef part():\n{body}".lstrip(), f"{name} = part() * w")
