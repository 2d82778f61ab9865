"""Attention of many kinds, vector quantizers, diffusion, tables, sounds and probabilistic programs of packages."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from .case import Case, image, in_double
from .flows_and_fields import _called


def _net(module: str, name: str, *args: Any, given: tuple[Any, ...] = (), **options: Any) -> Case:
    model = getattr(import_module(module), name)(*args, **options)
    return Case(model.double().train(), given or (image(2, 8, 16),))


TOKENS = (torch.arange(32).view(2, 16) * 7 % 11,)
LINFORMER: dict[str, Callable[[], Case]] = {
    "Linformer": lambda: _net("linformer", "Linformer", dim=16, seq_len=8, depth=2, heads=2, k=4, dropout=0.1),
}
PERFORMER: dict[str, Callable[[], Case]] = {
    "Performer": lambda: _net(
        "performer_pytorch",
        "PerformerLM",
        num_tokens=11,
        max_seq_len=16,
        dim=16,
        depth=2,
        heads=2,
        dim_head=8,
        nb_features=8,
        ff_dropout=0.1,
        given=TOKENS,
    ),
    "causal, generalised": lambda: _net(
        "performer_pytorch",
        "Performer",
        dim=16,
        depth=1,
        heads=2,
        dim_head=8,
        generalized_attention=True,
        kernel_fn=nn.ReLU(),
    ),
}
REFORMER: dict[str, Callable[[], Case]] = {
    "Reformer": lambda: _net(
        "reformer_pytorch",
        "ReformerLM",
        num_tokens=11,
        dim=16,
        depth=2,
        max_seq_len=16,
        heads=2,
        bucket_size=4,
        n_hashes=2,
        causal=True,
        given=TOKENS,
    ),
}
LOCAL_ATTENTION: dict[str, Callable[[], Case]] = {
    "local": lambda: _net(
        "local_attention",
        "LocalTransformer",
        num_tokens=11,
        dim=16,
        depth=2,
        max_seq_len=16,
        causal=True,
        local_attn_window_size=4,
        heads=2,
        dim_head=8,
        given=TOKENS,
    ),
}
AXIAL: dict[str, Callable[[], Case]] = {
    "axial": lambda: _net(
        "axial_attention", "AxialAttention", dim=8, dim_index=1, heads=2, num_dimensions=2, given=(image(2, 8, 4, 4),)
    ),
    "axial, reversible": lambda: _net(
        "axial_attention",
        "AxialImageTransformer",
        dim=8,
        depth=2,
        reversible=True,
        axial_pos_emb_shape=(4, 4),
        heads=2,
        given=(image(2, 8, 4, 4),),
    ),
}
PERCEIVER: dict[str, Callable[[], Case]] = {
    "Perceiver": lambda: _net(
        "perceiver_pytorch",
        "Perceiver",
        input_channels=3,
        input_axis=2,
        num_freq_bands=2,
        max_freq=4.0,
        depth=2,
        num_latents=4,
        latent_dim=16,
        cross_heads=1,
        latent_heads=2,
        num_classes=5,
        weight_tie_layers=True,
        attn_dropout=0.1,
        given=(image(2, 6, 6, 3),),
    ),
    "PerceiverIO": lambda: _net(
        "perceiver_pytorch",
        "PerceiverIO",
        dim=16,
        queries_dim=8,
        depth=2,
        num_latents=4,
        latent_dim=16,
        seq_dropout_prob=0.2,
    ),
}
CONFORMER: dict[str, Callable[[], Case]] = {
    "block": lambda: _net(
        "conformer", "ConformerBlock", dim=16, dim_head=8, heads=2, attn_dropout=0.1, conv_dropout=0.1
    ),
}
SOFT_MOE: dict[str, Callable[[], Case]] = {
    "soft experts": lambda: _net("soft_moe_pytorch", "SoftMoE", dim=16, num_experts=2, seq_len=8),
}
MAMBAPY: dict[str, Callable[[], Case]] = {
    kind: lambda scan=scan: Case(
        (lambda m: m.Mamba(m.MambaConfig(d_model=8, n_layers=2, pscan=scan)))(import_module("mambapy.mamba")).double(),
        (image(2, 8, 8),),
    )
    for kind, scan in (("Mamba, parallel scan", True), ("Mamba, in a loop", False))
}


def _titans() -> Case:
    memory = import_module("titans_pytorch").NeuralMemory(dim=8, chunk_size=4)
    return _called(lambda net, x: net(x)[0].square(), memory, args=(image(2, 8, 8),))


TITANS: dict[str, Callable[[], Case]] = {"neural memory": _titans}


def _quantizer(name: str, **options: Any) -> Case:
    part = getattr(import_module("vector_quantize_pytorch"), name)(**options)
    dim = 8

    def run(there: nn.Module, quantizer: nn.Module, back: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = quantizer(there(x))
        losses = (
            [v.sum() for v in out[1:] if isinstance(v, torch.Tensor) and v.is_floating_point() and v.requires_grad]
            if isinstance(out, tuple)
            else []
        )
        return (back(out[0] if isinstance(out, tuple) else out) - x).square().mean() + sum(losses)

    return _called(run, nn.Linear(8, dim), part, nn.Linear(dim, 8), args=(image(2, 16, 8),))


VQ: dict[str, Callable[[], Case]] = {
    "VQ": lambda: _quantizer("VectorQuantize", dim=8, codebook_size=6, decay=0.8),
    "VQ, learned": lambda: _quantizer(
        "VectorQuantize", dim=8, codebook_size=6, learnable_codebook=True, ema_update=False
    ),
    "VQ, k-means": lambda: _quantizer("VectorQuantize", dim=8, codebook_size=6, kmeans_init=True, kmeans_iters=3),
    "VQ, cosine": lambda: _quantizer(
        "VectorQuantize", dim=8, codebook_size=6, use_cosine_sim=True, threshold_ema_dead_code=2
    ),
    "VQ, rotation": lambda: _quantizer("VectorQuantize", dim=8, codebook_size=6, rotation_trick=True),
    "VQ, orthogonal": lambda: _quantizer("VectorQuantize", dim=8, codebook_size=6, orthogonal_reg_weight=1.0),
    "VQ, stochastic": lambda: _quantizer(
        "VectorQuantize", dim=8, codebook_size=6, stochastic_sample_codes=True, sample_codebook_temp=0.5
    ),
    "residual": lambda: _quantizer("ResidualVQ", dim=8, codebook_size=6, num_quantizers=3, quantize_dropout=True),
    "grouped residual": lambda: _quantizer("GroupedResidualVQ", dim=8, codebook_size=6, num_quantizers=2, groups=2),
    "simple": lambda: _quantizer("SimVQ", dim=8, codebook_size=6, rotation_trick=True),
    "FSQ": lambda: _quantizer("FSQ", dim=8, levels=[4, 3, 3]),
    "residual FSQ": lambda: _quantizer("ResidualFSQ", dim=8, levels=[4, 3, 3], num_quantizers=2),
    "LFQ": lambda: _quantizer("LFQ", dim=8, codebook_size=16, entropy_loss_weight=0.1, diversity_gamma=1.0),
}


def _ddpm(kind: str, **options: Any) -> Case:
    package = import_module("denoising_diffusion_pytorch")
    if kind == "1D":
        net = package.Unet1D(dim=8, dim_mults=(1, 2), channels=3)
        model = package.GaussianDiffusion1D(net, seq_length=16, timesteps=10, **options)
        return Case(model.double(), (torch.rand(2, 3, 16, dtype=torch.float64),))
    net = package.Unet(dim=8, dim_mults=(1, 2), flash_attn=False, self_condition=options.pop("self_condition", False))
    cls = getattr(package, kind)
    extra = {"timesteps": 10} if kind == "GaussianDiffusion" else {}
    return Case(cls(net, image_size=16, **extra, **options).double(), (torch.rand(2, 3, 16, 16, dtype=torch.float64),))


DDPM: dict[str, Callable[[], Case]] = {
    "Gaussian": lambda: in_double(lambda: _ddpm("GaussianDiffusion")),
    "Gaussian, v, SNR": lambda: in_double(
        lambda: _ddpm("GaussianDiffusion", objective="pred_v", min_snr_loss_weight=True)
    ),
    "Gaussian, self-conditioned": lambda: in_double(
        lambda: _ddpm("GaussianDiffusion", self_condition=True, offset_noise_strength=0.1)
    ),
    "one dimension": lambda: in_double(lambda: _ddpm("1D")),
}


def _tables(kind: str) -> Case:
    classes = (torch.tensor([[0, 2], [1, 0], [1, 1]]), image(3, 4))
    if kind == "TabNet":
        net = import_module("pytorch_tabnet.tab_network").TabNet(
            5, 2, n_d=4, n_a=4, n_steps=2, cat_idxs=[], cat_dims=[], cat_emb_dim=1, group_attention_matrix=torch.eye(5)
        )
        net.embedder = nn.Identity()
        return Case(net.double().train(), (image(8, 5),))
    package = import_module("tab_transformer_pytorch")
    if kind == "FT":
        net = package.FTTransformer(categories=(2, 3), num_continuous=4, dim=8, depth=1, heads=2, attn_dropout=0.1)
    else:
        net = package.TabTransformer(categories=(2, 3), num_continuous=4, dim=8, depth=1, heads=2, dim_out=1)
    return Case(net.double(), classes)


TABNET: dict[str, Callable[[], Case]] = {"TabNet": lambda: in_double(lambda: _tables("TabNet"))}
TAB_TRANSFORMER: dict[str, Callable[[], Case]] = {"FT-Transformer": lambda: _tables("FT")}
TABM: dict[str, Callable[[], Case]] = {
    "TabM": lambda: _net(
        "tabm",
        "TabM",
        n_num_features=4,
        cat_cardinalities=[],
        d_out=2,
        n_blocks=2,
        d_block=8,
        dropout=0.1,
        k=4,
        arch_type="tabm",
        start_scaling_init="random-signs",
        given=(image(5, 4),),
    ),
}


def _sound(name: str, given: tuple[Any, ...], **options: Any) -> Case:
    return Case(getattr(import_module("torchaudio.models"), name)(**options).double().train(), given)


def _streamed() -> Case:
    net = import_module("torchaudio.models").Emformer(
        input_dim=8, num_heads=2, ffn_dim=16, num_layers=2, segment_length=4, right_context_length=1
    )
    return Case(net.double(), (image(2, 9, 8), torch.tensor([9, 6])))


def _features(name: str, **options: Any) -> Case:
    part = getattr(import_module("torchaudio.transforms"), name)(**options)
    return _called(
        lambda net, part, x: part(net(x)).abs().square(), nn.Conv1d(1, 1, 5, padding=2), part, args=(image(2, 1, 800),)
    )


def _filtered(kind: str) -> Case:
    f = import_module("torchaudio.functional")

    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor([1.0, -0.3, 0.1])), nn.Parameter(torch.tensor([0.5, 0.2, 0.1]))
            self.q = nn.Parameter(torch.tensor(0.7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if kind == "lfilter":
                return f.lfilter(x, self.a, self.b, clamp=False)
            if kind == "convolve":
                return f.fftconvolve(x, self.b.expand(2, 1, 3))
            return f.lowpass_biquad(x, 8000, torch.tensor(900.0), self.q)

    return Case(Filter().double(), (image(2, 1, 50),))


TORCHAUDIO: dict[str, Callable[[], Case]] = {
    "ConvTasNet": lambda: _sound(
        "ConvTasNet",
        (image(2, 1, 200),),
        enc_num_feats=8,
        msk_num_feats=8,
        msk_num_hidden_feats=8,
        msk_num_layers=2,
        msk_num_stacks=1,
    ),
    "Conformer": lambda: _sound(
        "Conformer",
        (image(2, 9, 8), torch.tensor([9, 6])),
        input_dim=8,
        num_heads=2,
        ffn_dim=16,
        num_layers=2,
        depthwise_conv_kernel_size=3,
        dropout=0.1,
    ),
    "Emformer": _streamed,
    "DeepSpeech": lambda: _sound("DeepSpeech", (image(2, 1, 9, 8),), n_feature=8, n_hidden=16, n_class=5),
    "Wav2Letter": lambda: _sound("Wav2Letter", (image(2, 8, 100),), num_classes=5, input_type="mfcc", num_features=8),
    "WaveRNN": lambda: _sound(
        "WaveRNN",
        (image(2, 1, 48), image(2, 1, 8, 8)),
        upsample_scales=[3, 4],
        n_classes=5,
        hop_length=12,
        n_res_block=1,
        n_rnn=8,
        n_fc=8,
        kernel_size=5,
        n_freq=8,
        n_hidden=8,
        n_output=8,
    ),
    "HDemucs": lambda: _sound("HDemucs", (image(1, 2, 2048),), sources=["a", "b"], channels=4, depth=3, nfft=256),
    "Tacotron2": lambda: _sound(
        "Tacotron2",
        (TOKENS[0][:, :6], torch.tensor([6, 5]), image(2, 8, 10), torch.tensor([10, 8])),
        n_mels=8,
        n_symbol=11,
        symbol_embedding_dim=8,
        encoder_embedding_dim=8,
        decoder_rnn_dim=8,
        attention_rnn_dim=8,
        attention_hidden_dim=8,
        attention_location_n_filter=4,
        prenet_dim=8,
        postnet_embedding_dim=8,
    ),
    "mel spectrogram": lambda: _features("MelSpectrogram", sample_rate=8000, n_fft=128, n_mels=8),
    "MFCC": lambda: _features("MFCC", sample_rate=8000, n_mfcc=6, melkwargs={"n_fft": 128, "n_mels": 8}),
    "spectral centroid": lambda: _features("SpectralCentroid", sample_rate=8000, n_fft=128),
    "masks": lambda: _called(
        lambda net, spectrum, time, x: time(spectrum(net(x))).square(),
        nn.Conv1d(1, 1, 5, padding=2),
        import_module("torchaudio.transforms").Spectrogram(128),
        import_module("torchaudio.transforms").TimeMasking(3),
        args=(image(2, 1, 800),),
    ),
    "resample": lambda: _features("Resample", orig_freq=8000, new_freq=6000),
    "Griffin-Lim": lambda: _called(
        lambda net, a, b, x: b(a(net(x))).square(),
        nn.Conv1d(1, 1, 5, padding=2),
        import_module("torchaudio.transforms").Spectrogram(64),
        import_module("torchaudio.transforms").GriffinLim(64, n_iter=3, rand_init=False),
        args=(image(2, 1, 400),),
    ),
    "IIR filter": lambda: _filtered("lfilter"),
    "convolve": lambda: _filtered("convolve"),
    "biquad": lambda: _filtered("biquad"),
}


def _encodec() -> Case:
    m = import_module("encodec.modules")
    return _called(
        lambda a, b, x: b(a(x)).square(),
        m.SEANetEncoder(n_filters=2, ratios=[2, 2], dimension=8, lstm=1),
        m.SEANetDecoder(n_filters=2, ratios=[2, 2], dimension=8, lstm=1),
        args=(image(2, 1, 64),),
    )


ENCODEC: dict[str, Callable[[], Case]] = {"SEANet": _encodec}
ASTEROID: dict[str, Callable[[], Case]] = {
    "DPRNN": lambda: _net(
        "asteroid.models",
        "DPRNNTasNet",
        2,
        n_filters=8,
        kernel_size=8,
        bn_chan=8,
        hid_size=8,
        chunk_size=10,
        n_repeats=1,
        given=(image(2, 400),),
    ),
    "DPTNet": lambda: _net(
        "asteroid.models",
        "DPTNet",
        2,
        n_filters=8,
        kernel_size=8,
        ff_hid=8,
        chunk_size=10,
        n_repeats=1,
        n_heads=2,
        given=(image(2, 400),),
    ),
    "SuDORM": lambda: _net(
        "asteroid.models",
        "SuDORMRFNet",
        2,
        bn_chan=8,
        num_blocks=1,
        upsampling_depth=2,
        mask_kernel_size=1,
        n_filters=8,
        kernel_size=9,
        stride=4,
        given=(image(2, 400),),
    ),
    "permutations": lambda: _called(
        lambda a, b, x, y: b(a(x), y),
        nn.Conv1d(3, 3, 5, padding=2),
        (lambda losses: losses.PITLossWrapper(losses.pairwise_neg_sisdr, pit_from="pw_mtx"))(
            import_module("asteroid.losses")
        ),
        args=(image(2, 3, 100), image(2, 3, 100)),
    ),
}


def _pyro(kind: str) -> Case:
    """Stochastic variational inference by its differentiable loss."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import Trace_ELBO, TraceMeanField_ELBO, autoguide
    from pyro.nn import PyroModule, PyroSample

    pyro.clear_param_store()

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](3, 1)
            self.linear.weight = PyroSample(dist.Normal(torch.zeros(1, 3), torch.ones(1, 3)).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(torch.zeros(1), torch.ones(1)).to_event(1))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            mean = self.linear(x).squeeze(-1)
            scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0), torch.tensor(1.0)))
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, scale), obs=y)

    model = Model().double()
    guides = {
        "normal": "AutoNormal",
        "low rank": "AutoLowRankMultivariateNormal",
        "full": "AutoMultivariateNormal",
        "IAF": "AutoIAFNormal",
        "delta": "AutoDelta",
    }
    guide = getattr(autoguide, guides.get(kind, "AutoNormal"))(model)
    elbo = {"mean field": TraceMeanField_ELBO}.get(kind, Trace_ELBO)()
    x, y = image(5, 3), image(5)
    elbo.differentiable_loss(model, guide, x, y)  # makes the guide's parameters
    return _called(lambda guide, x, y: elbo.differentiable_loss(model, guide, x, y), guide.double(), args=(x, y))


PYRO: dict[str, Callable[[], Case]] = {
    kind: lambda kind=kind: in_double(lambda: _pyro(kind))
    for kind in ("normal", "low rank", "full", "IAF", "delta", "mean field")
}


def _clip() -> Case:
    m = import_module("open_clip")
    model = m.CLIP(
        embed_dim=8,
        vision_cfg={"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
        text_cfg={"context_length": 6, "vocab_size": 11, "width": 16, "heads": 2, "layers": 2},
    )
    loss = m.ClipLoss()
    return Case(
        model.double().train(), (image(3, 3, 16, 16), TOKENS[0].flatten()[:18].view(3, 6)), loss=lambda out: loss(*out)
    )


OPEN_CLIP: dict[str, Callable[[], Case]] = {"CLIP": _clip}


def _nnaudio(name: str, **options: Any) -> Case:
    part = getattr(import_module("nnAudio.features"), name)(verbose=False, **options)
    return _called(
        lambda net, part, x: part(net(x)).square(), nn.Conv1d(1, 1, 5, padding=2), part, args=(image(2, 1, 1000),)
    )


NNAUDIO: dict[str, Callable[[], Case]] = {
    "STFT, trainable": lambda: _nnaudio("STFT", n_fft=64, trainable=True, output_format="Magnitude"),
    "mel, trainable": lambda: _nnaudio(
        "MelSpectrogram", sr=8000, n_fft=64, n_mels=8, trainable_mel=True, trainable_STFT=True
    ),
    "gammatone": lambda: _nnaudio("Gammatonegram", sr=8000, n_fft=64, n_bins=8),
}


def _dct() -> Case:
    dct = import_module("torch_dct")
    return _called(lambda net, x: dct.idct(dct.dct_2d(net(x)) * 0.5).square(), nn.Linear(6, 6), args=(image(4, 6),))


DCT: dict[str, Callable[[], Case]] = {"DCT and back": _dct}
