"""A model or two of each package that is installed; ``make models`` does all of them."""

import pytest
from sweeps.foreign import catalog, installed, placed, section, verdicts
from sweeps.models import Verdict

SAMPLE = [
    ("torch", "Normal"),
    ("papers", "retention"),
    ("papers", "state space by FFT"),
    ("papers", "CRF by hand"),
    ("papers", "Hamiltonian"),
    ("papers", "Gaussian splats"),
    ("torchvision", "resnet18"),
    ("timm", "vit_tiny_patch16_224"),
    ("diffusers", "UNet2D"),
    ("peft", "LoRA"),
    ("x-transformers", "decoder"),
    ("torchdiffeq", "bosh3"),
    ("pytorch-crf", "LSTM and CRF"),
    ("gpytorch", "RBF"),
]


@pytest.mark.parametrize(("package", "name"), SAMPLE)
def test_a_model_trains_as_in_pytorch(package, name):
    if not installed(package):
        pytest.skip(f"{package} is not installed: pip install -e '.[models]'")
    models = catalog(package)
    make = models.get(name, next(iter(models.values())))
    assert {way: str(v) for way, v in verdicts(make).items()} == {"step": "pass", "wrap": "pass"}


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog("papers"))
def test_a_model_of_a_paper_trains_as_in_pytorch(name):
    assert {way: str(v) for way, v in verdicts(catalog("papers")[name]).items()} == {"step": "pass", "wrap": "pass"}


def test_a_section_takes_the_place_of_the_one_before():
    passes, refused = Verdict("pass", "", 1234, 0.5), Verdict("refused", "CaptureError: no")
    text = section("torch", {"A": {"step": passes, "wrap": passes}, "B": {"step": refused, "wrap": passes}})
    assert "1 of 2 pass both ways" in text and "| A | pass | pass | 1,234 | 0.50 |" in text
    assert "- B: refused (CaptureError: no)" in text
    page = placed("# Page\n\n## torch.distributions\n\nold\n\n## other\n\nstays\n", "torch", text)
    assert "old" not in page and page.count("## torch.distributions") == 1 and page.endswith("stays\n")
