"""Models of other people's packages for two steps of SGD, by ``mg.TrainStep`` and ``mg.wrap``, against plain PyTorch.

python tests/sweeps/foreign.py [PACKAGE[:MODEL] ...] [--record]   prints pass, refused (why), wrong or crash; fails on
the last two

Models come as they are, with dropout, from random parameters; loss, every gradient and every buffer are compared. A
package that is not installed is left out by name. ``--record`` writes its section of ``docs/packages.md``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import optim

sys.path.insert(0, str(Path(__file__).parents[1]))

from sweeps.models import BAD, ROOT, Timed, Verdict, _said
from sweeps.packages.case import Case, Whole

import memograd as mg
from memograd.errors import GradientMismatchError, MemogradError

# Name on PyPI -> what one imports, and the files of ``packages/`` that build its models (FILE, or FILE:TABLE).
PACKAGES = {
    "torch": ("torch", ["distributions"]),
    "papers": (
        "torch",
        ["papers_sequences", "papers_fields", "papers_generative", "papers_memory", "papers_learning"],
    ),
    "torchvision": ("torchvision", ["torchvision_models"]),
    "timm": ("timm", ["timm_models"]),
    "diffusers": ("diffusers", ["diffusers_unets", "diffusers_transformers", "diffusers_autoencoders"]),
    "peft": ("peft", ["peft_methods"]),
    "torch_geometric": ("torch_geometric", ["graph_layers", "graph_networks"]),
    "segmentation-models-pytorch": ("segmentation_models_pytorch", ["segmentation"]),
    "x-transformers": ("x_transformers", ["x_transformers_models"]),
    "torchdiffeq": ("torchdiffeq", ["differential_equations"]),
    "pytorch-crf": ("torchcrf", ["random_fields"]),
    "gpytorch": ("gpytorch", ["gaussian_processes"]),
    "pytorch-metric-learning": ("pytorch_metric_learning", ["losses:METRIC_LEARNING"]),
    "lightly": ("lightly", ["losses:LIGHTLY"]),
    "torchmetrics": ("torchmetrics", ["losses:TORCHMETRICS"]),
    "piqa": ("piqa", ["losses:PIQA"]),
    "pytorch-msssim": ("pytorch_msssim", ["losses:MSSSIM"]),
    "entmax": ("entmax", ["losses:ENTMAX"]),
    "auraloss": ("auraloss", ["losses:AURALOSS"]),
    "kornia": ("kornia", ["vision_extras:KORNIA"]),
    "monai": ("monai", ["vision_extras:MONAI"]),
    "vit-pytorch": ("vit_pytorch", ["vision_extras:VIT_PYTORCH"]),
    "zuko": ("zuko", ["flows_and_fields:ZUKO"]),
    "nflows": ("nflows", ["flows_and_fields:NFLOWS"]),
    "normflows": ("normflows", ["flows_and_fields:NORMFLOWS"]),
    "snntorch": ("snntorch", ["flows_and_fields:SNNTORCH"]),
    "spikingjelly": ("spikingjelly", ["flows_and_fields:SPIKINGJELLY"]),
    "neuraloperator": ("neuralop", ["flows_and_fields:NEURALOP"]),
    "e3nn": ("e3nn", ["flows_and_fields:E3NN"]),
    "torchsde": ("torchsde", ["flows_and_fields:TORCHSDE"]),
    "torchcde": ("torchcde", ["flows_and_fields:TORCHCDE"]),
    "ncps": ("ncps", ["flows_and_fields:NCPS"]),
    "geotorch": ("geotorch", ["flows_and_fields:GEOTORCH"]),
    "egnn-pytorch": ("egnn_pytorch", ["flows_and_fields:EGNN"]),
    "se3-transformer-pytorch": ("se3_transformer_pytorch", ["flows_and_fields:SE3"]),
    "torchani": ("torchani", ["flows_and_fields:TORCHANI"]),
    "pykan": ("kan", ["flows_and_fields:PYKAN"]),
    "torch-struct": ("torch_struct", ["flows_and_fields:STRUCT"]),
    "geoopt": ("geoopt", ["flows_and_fields:GEOOPT"]),
    "linformer": ("linformer", ["sequences_and_sounds:LINFORMER"]),
    "performer-pytorch": ("performer_pytorch", ["sequences_and_sounds:PERFORMER"]),
    "reformer-pytorch": ("reformer_pytorch", ["sequences_and_sounds:REFORMER"]),
    "local-attention": ("local_attention", ["sequences_and_sounds:LOCAL_ATTENTION"]),
    "axial-attention": ("axial_attention", ["sequences_and_sounds:AXIAL"]),
    "perceiver-pytorch": ("perceiver_pytorch", ["sequences_and_sounds:PERCEIVER"]),
    "conformer": ("conformer", ["sequences_and_sounds:CONFORMER"]),
    "soft-moe-pytorch": ("soft_moe_pytorch", ["sequences_and_sounds:SOFT_MOE"]),
    "mambapy": ("mambapy", ["sequences_and_sounds:MAMBAPY"]),
    "titans-pytorch": ("titans_pytorch", ["sequences_and_sounds:TITANS"]),
    "vector-quantize-pytorch": ("vector_quantize_pytorch", ["sequences_and_sounds:VQ"]),
    "denoising-diffusion-pytorch": ("denoising_diffusion_pytorch", ["sequences_and_sounds:DDPM"]),
    "pytorch-tabnet": ("pytorch_tabnet", ["sequences_and_sounds:TABNET"]),
    "tab-transformer-pytorch": ("tab_transformer_pytorch", ["sequences_and_sounds:TAB_TRANSFORMER"]),
    "tabm": ("tabm", ["sequences_and_sounds:TABM"]),
    "torchaudio": ("torchaudio", ["sequences_and_sounds:TORCHAUDIO"]),
    "encodec": ("encodec", ["sequences_and_sounds:ENCODEC"]),
    "asteroid": ("asteroid", ["sequences_and_sounds:ASTEROID"]),
    "pyro-ppl": ("pyro", ["sequences_and_sounds:PYRO"]),
    "open-clip-torch": ("open_clip", ["sequences_and_sounds:OPEN_CLIP"]),
    "nnAudio": ("nnAudio", ["sequences_and_sounds:NNAUDIO"]),
    "torch-dct": ("torch_dct", ["sequences_and_sounds:DCT"]),
}
OF_TORCH = {"torch": "torch.distributions", "papers": "Models of papers"}  # their titles: no packages of their own
PAGE = ROOT / "docs" / "packages.md"
WAYS = ("step", "wrap")
STEPS, RATE = 2, 0.01

Tensor = torch.Tensor


@dataclass
class Course:
    """What training came to.

    Attributes:
        gradients: by parameter, of each step; none where the optimizer's update is part of the step.
    """

    losses: list[Tensor] = field(default_factory=list)
    gradients: list[dict[str, Tensor | None]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)


def catalog(package: str) -> dict[str, Callable[[], Case]]:
    """The models of ``package`` by name."""
    tables = []
    for place in PACKAGES[package][1]:
        file, _, table = place.partition(":")
        tables.append(getattr(import_module(f"sweeps.packages.{file}"), table or "MODELS"))
    return {name: make for table in tables for name, make in table.items()}


def installed(package: str) -> bool:
    return find_spec(PACKAGES[package][0]) is not None


def verdicts(make: Callable[[], Case], ways: Iterable[str] = WAYS) -> dict[str, Verdict]:
    """How each way comes out."""
    try:
        case = _built(make)
        start = {name: t.clone() for name, t in _tensors(case)}
        with default_of(case):
            theirs = by_loop(case)
    except Exception as error:
        return {way: Verdict("untried", _said(error)) for way in ways}
    return {way: _verdict(way, make, start, theirs) for way in ways}


def _verdict(way: str, make: Callable[[], Case], start: dict[str, Tensor], theirs: Course) -> Verdict:
    case = _built(make)
    with torch.no_grad():  # some layers of packages start with what lies in memory
        for name, tensor in _tensors(case):
            tensor.copy_(start[name])
    operators, seconds = 0, 0.0
    try:
        with default_of(case):
            if way == "wrap":
                mg.wrap(case.model, backend="eager")
                ours = by_loop(case)
            else:
                ours, step = by_step(case)
                operators, seconds = len(step.graph.nodes), step.seconds / len(step.captures)
        agree(ours, theirs, case.tolerance)
    except (AssertionError, GradientMismatchError) as error:
        return Verdict("wrong", _said(error))
    except MemogradError as error:
        return Verdict("refused", _said(error))
    except Exception as error:
        return Verdict("crash", _said(error))
    return Verdict("pass", "", operators, seconds)


def by_loop(case: Case) -> Course:
    """Training as everybody writes it."""
    course, optimizer = Course(), optim.SGD(case.model.parameters(), lr=RATE)
    for k in range(STEPS):
        optimizer.zero_grad()
        seed(k)
        loss = case.loss(case.model(*case.args, **case.kwargs))
        loss.backward()
        course.losses.append(loss.detach().clone())
        named = case.model.named_parameters()
        course.gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in named})
        optimizer.step()
    course.state = dict(_tensors(case))
    return course


def by_step(case: Case) -> tuple[Course, Timed]:
    whole = Whole(case.model, case.loss)
    step = Timed(whole, None, optim.SGD(whole.parameters(), lr=RATE), backend="eager")
    course = Course()
    for k in range(STEPS):
        seed(k)
        course.losses.append(step(*case.args, **case.kwargs).detach().clone())
    course.state = dict(_tensors(case))
    return course, step


def agree(ours: Course, theirs: Course, tolerance: float) -> None:
    """Relative to the largest element, or to 1.

    Raises:
        AssertionError: they do not.
    """
    for k, (mine, other) in enumerate(zip(ours.losses, theirs.losses, strict=True)):
        _close(f"loss {k}", mine, other, tolerance)
    for k, gradients in enumerate(ours.gradients):
        for name, other in theirs.gradients[k].items():
            _close(f"gradient {k} of {name}", gradients[name], other, tolerance)
    assert ours.state.keys() == theirs.state.keys()
    for name, other in theirs.state.items():
        _close(name, ours.state[name], other, tolerance)


def _close(what: str, mine: Tensor | None, other: Tensor | None, tolerance: float) -> None:
    if mine is None or other is None:
        assert mine is other, f"{what} is none on one side"
        return
    mine, other = (t.detach().to_dense() if t.is_sparse else t.detach() for t in (mine, other))
    if other.dtype == torch.bool:
        assert torch.equal(mine, other), what
        return
    largest = other.abs().nan_to_num().max().item() if other.numel() else 0.0
    torch.testing.assert_close(
        mine, other, rtol=0, atol=tolerance * max(1.0, largest), equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


@contextmanager
def default_of(case: Case) -> Iterator[None]:
    """While open, the default type is that of ``case``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(case.default)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def seed(k: int) -> None:
    torch.manual_seed(k)
    random.seed(k)
    np.random.seed(k)


def _built(make: Callable[[], Case]) -> Case:
    seed(0)
    return make()


def _tensors(case: Case) -> list[tuple[str, Tensor]]:
    state = case.model.state_dict()
    return [(name, t) for name, t in state.items() if isinstance(t, Tensor)]


def section(package: str, results: dict[str, dict[str, Verdict]]) -> str:
    """The part of the page about ``package``."""
    tried = {name: row for name, row in results.items() if any(v.kind != "untried" for v in row.values())}
    whole = sum(all(v.kind == "pass" for v in row.values()) for row in tried.values())
    source = "torch" if package in OF_TORCH else package
    rest = len(catalog(package)) - len(results)
    left_out = f" {rest} more of the catalog were not run." if rest > 0 else ""
    lines = [
        f"## {OF_TORCH.get(package, package)}",
        "",
        f"{whole} of {len(tried)} pass both ways ({source} {_version(source)}).{left_out}",
        "",
        "| model | TrainStep | wrap | operators | seconds |",
        "|---|---|---|---:|---:|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, row in results.items():
        step, wrap = (row[way] for way in WAYS)
        numbers = f"{step.operators:,} | {step.seconds:.2f}" if step.kind == "pass" else "– | –"  # it has none
        lines.append(f"| {name} | {step.kind} | {wrap.kind} | {numbers} |")
        for v in row.values():
            if v.kind != "pass" and name not in reasons.setdefault(str(v), []):
                reasons[str(v)].append(name)
    if reasons:
        lines += ["", "What does not pass, and why:", ""]
        lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(lines) + "\n"


def placed(page: str, package: str, text: str) -> str:
    """``page`` with ``text`` in the place of the section of its title, or at the end."""
    title = text.splitlines()[0]
    before, *sections = ("\n" + page).split("\n## ")
    named = {f"## {s.splitlines()[0]}": f"## {s}" for s in sections}
    named[title] = text
    parts = [before.lstrip("\n"), *named.values()]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _version(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "of its sources"


def sweep(package: str, names: list[str]) -> dict[str, dict[str, Verdict]]:
    """Print each verdict as it comes."""
    models, results = catalog(package), {}
    for name in names or models:
        start = time.perf_counter()
        results[name] = verdicts(models[name])
        said = "; ".join(f"{way} {v}" for way, v in results[name].items())
        print(f"{package} {name:40} {said} ({time.perf_counter() - start:.0f} s)", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PACKAGE[:MODEL]")
    parser.add_argument("--record", action="store_true", help="write the sections of docs/packages.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    chosen: dict[str, list[str]] = {}
    for given in options.names or PACKAGES:
        package, _, name = given.partition(":")
        chosen.setdefault(package, []).extend([name] if name else [])
    for package, names in chosen.items():
        if not installed(package):
            print(f"{package} is not installed and left out: pip install --no-deps {package}")
            continue
        results = sweep(package, names)
        counts.update(v.kind for row in results.values() for v in row.values())
        if options.record and not names:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(placed(page, package, section(package, results)), encoding="utf-8")
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    return 1 if any(counts[kind] for kind in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
