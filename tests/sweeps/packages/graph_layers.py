"""Layers of PyTorch Geometric, twice each, on a small random graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .case import Case, image

NODES, EDGES, WIDTH = 12, 40, 8


def edges() -> torch.Tensor:
    return torch.randint(0, NODES, (2, EDGES))


def weights() -> torch.Tensor:
    return torch.rand(EDGES, dtype=torch.float64)


class Twice(nn.Module):
    """Two layers with a nonlinearity and dropout between."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Any, *rest: Any, **more: Any) -> torch.Tensor:
        h = nn.functional.dropout(self.first(x, *rest, **more).relu(), 0.2, self.training)
        return self.second(h, *rest, **more)


def twice(make: Callable[[Any], nn.Module], *rest: Any, **more: Any) -> Case:
    import torch_geometric.nn as gnn

    return Case(Twice(make(gnn), make(gnn)).double().train(), (image(NODES, WIDTH), *rest), more)


def _mlp(inputs: int = WIDTH, outputs: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


CONVOLUTIONS: dict[str, Callable[[Any], nn.Module]] = {
    "GCNConv": lambda g: g.GCNConv(WIDTH, WIDTH),
    "ChebConv": lambda g: g.ChebConv(WIDTH, WIDTH, K=3),
    "SAGEConv": lambda g: g.SAGEConv(WIDTH, WIDTH),
    "SAGEConv, max": lambda g: g.SAGEConv(WIDTH, WIDTH, aggr="max"),
    "SAGEConv, lstm": lambda g: g.SAGEConv(WIDTH, WIDTH, aggr="lstm"),
    "SAGEConv, several": lambda g: g.SAGEConv(WIDTH, WIDTH, aggr=["mean", "std", "softmax", "median"]),
    "GraphConv": lambda g: g.GraphConv(WIDTH, WIDTH),
    "GatedGraphConv": lambda g: g.GatedGraphConv(WIDTH, 2),
    "ResGatedGraphConv": lambda g: g.ResGatedGraphConv(WIDTH, WIDTH),
    "GATConv": lambda g: g.GATConv(WIDTH, 4, heads=2, dropout=0.2),
    "GATv2Conv": lambda g: g.GATv2Conv(WIDTH, 4, heads=2, dropout=0.2),
    "TransformerConv": lambda g: g.TransformerConv(WIDTH, 4, heads=2, dropout=0.2, beta=True),
    "AGNNConv": lambda g: g.AGNNConv(),
    "TAGConv": lambda g: g.TAGConv(WIDTH, WIDTH),
    "GINConv": lambda g: g.GINConv(_mlp(), train_eps=True),
    "ARMAConv": lambda g: g.ARMAConv(WIDTH, WIDTH, num_stacks=2, num_layers=2, dropout=0.2),
    "SGConv": lambda g: g.SGConv(WIDTH, WIDTH, K=2),
    "SSGConv": lambda g: g.SSGConv(WIDTH, WIDTH, alpha=0.1, K=2),
    "MFConv": lambda g: g.MFConv(WIDTH, WIDTH),
    "EdgeConv": lambda g: g.EdgeConv(_mlp(2 * WIDTH)),
    "FeaStConv": lambda g: g.FeaStConv(WIDTH, WIDTH, heads=2),
    "LEConv": lambda g: g.LEConv(WIDTH, WIDTH),
    "ClusterGCNConv": lambda g: g.ClusterGCNConv(WIDTH, WIDTH),
    "GENConv": lambda g: g.GENConv(WIDTH, WIDTH, learn_t=True),
    "FiLMConv": lambda g: g.FiLMConv(WIDTH, WIDTH),
    "SuperGATConv": lambda g: g.SuperGATConv(WIDTH, 4, heads=2, dropout=0.2),
    "EGConv": lambda g: g.EGConv(WIDTH, WIDTH, aggregators=["sum", "mean", "std"]),
    "GeneralConv": lambda g: g.GeneralConv(WIDTH, WIDTH, attention=True),
    "AntiSymmetricConv": lambda g: g.AntiSymmetricConv(WIDTH),
    "MixHopConv": lambda g: g.MixHopConv(WIDTH, 4, powers=[0, 1]),
    "DirGNNConv": lambda g: g.DirGNNConv(g.SAGEConv(WIDTH, WIDTH)),
    "GPSConv": lambda g: g.GPSConv(WIDTH, g.GINConv(_mlp()), heads=2, dropout=0.2, attn_type="multihead"),
    "HypergraphConv": lambda g: g.HypergraphConv(WIDTH, WIDTH),
}
WITH_WEIGHTS = ["GCNConv", "GraphConv", "TAGConv", "ARMAConv"]


def _plain(name: str) -> Case:
    between = edges()
    return twice(CONVOLUTIONS[name], between.sort(dim=1).values if "lstm" in name else between)


def _relational(kind: str) -> Case:
    types = torch.randint(0, 3, (EDGES,))
    return twice(lambda g: getattr(g, kind)(WIDTH, WIDTH, 3), edges(), types)


def _with_edge_features(make: Callable[[Any], nn.Module], width: int = 3) -> Case:
    return twice(make, edges(), image(EDGES, width).sigmoid())


def _pna() -> Case:
    degrees = torch.tensor([1, 3, 4, 3, 1])
    return twice(
        lambda g: g.PNAConv(WIDTH, WIDTH, ["mean", "max", "std"], ["identity", "amplification"], degrees), edges()
    )


def _gcn2() -> Case:
    return Case(_Initial().double().train(), (image(NODES, WIDTH), edges()))


class _Initial(nn.Module):
    """Layers that are given the first features, too."""

    def __init__(self) -> None:
        import torch_geometric.nn as gnn

        super().__init__()
        self.gcn2, self.fa = gnn.GCN2Conv(WIDTH, 0.1, 0.5, 1), gnn.FAConv(WIDTH, dropout=0.2)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.fa(self.gcn2(x, x, edges).relu(), x, edges)


class _Points(nn.Module):
    """Layers on points in space: neighbours, normals, and kernels of their distances."""

    def __init__(self, make: Callable[[Any], nn.Module]) -> None:
        import torch_geometric.nn as gnn

        super().__init__()
        self.layer = make(gnn)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.layer(x, positions, edges)


def _points(make: Callable[[Any], nn.Module]) -> Case:
    return Case(_Points(make).double().train(), (image(NODES, WIDTH), image(NODES, 3), edges()))


MODELS: dict[str, Callable[[], Case]] = {
    **{
        name: lambda name=name: twice(
            CONVOLUTIONS[name], torch.sort(edges(), dim=1).values if "lstm" in name else edges()
        )
        for name in CONVOLUTIONS
    },
    **{f"{name}, weighted": lambda name=name: twice(CONVOLUTIONS[name], edges(), weights()) for name in WITH_WEIGHTS},
    "RGCNConv": lambda: _relational("RGCNConv"),
    "FastRGCNConv": lambda: _relational("FastRGCNConv"),
    "RGATConv": lambda: _relational("RGATConv"),
    "GINEConv": lambda: _with_edge_features(lambda g: g.GINEConv(_mlp(), edge_dim=3)),
    "GATConv, edges": lambda: _with_edge_features(lambda g: g.GATConv(WIDTH, WIDTH, edge_dim=3)),
    "GMMConv": lambda: _with_edge_features(lambda g: g.GMMConv(WIDTH, WIDTH, 3, 2)),
    "NNConv": lambda: _with_edge_features(lambda g: g.NNConv(WIDTH, WIDTH, nn.Linear(3, WIDTH * WIDTH))),
    "CGConv": lambda: _with_edge_features(lambda g: g.CGConv(WIDTH, 3, batch_norm=True)),
    "PDNConv": lambda: _with_edge_features(lambda g: g.PDNConv(WIDTH, WIDTH, 3, 8)),
    "PNAConv": _pna,
    "GCN2Conv and FAConv": _gcn2,
    "PointNetConv": lambda: _points(lambda g: g.PointNetConv(_mlp(WIDTH + 3))),
    "PointTransformerConv": lambda: _points(lambda g: g.PointTransformerConv(WIDTH, WIDTH)),
    "PointGNNConv": lambda: _points(lambda g: g.PointGNNConv(_mlp(WIDTH, 3), _mlp(WIDTH + 3), _mlp())),
}
