"""Networks of PyTorch Geometric, pooling, readouts, graphs of several kinds of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .case import Case, image
from .graph_layers import EDGES, NODES, WIDTH, edges, twice, weights


def _network(kind: str, *sizes: Any, **options: Any) -> Case:
    import torch_geometric.nn as gnn

    model = getattr(gnn.models, kind)(*sizes, **options)
    return Case(model.double().train(), (image(NODES, WIDTH), edges()))


class _Pooled(nn.Module):
    """A classifier of whole graphs: layers, pooling of nodes, a readout."""

    def __init__(self, pool: str) -> None:
        import torch_geometric.nn as gnn

        super().__init__()
        self.gcn = gnn.GCNConv(WIDTH, WIDTH)
        kinds = {
            "top-k": lambda: gnn.TopKPooling(WIDTH, ratio=0.5),
            "SAG": lambda: gnn.SAGPooling(WIDTH, ratio=0.5),
            "edge": lambda: gnn.EdgePooling(WIDTH),
        }
        self.pool = kinds[pool]()
        self.norm = gnn.GraphNorm(WIDTH)
        self.kind = pool

    def forward(self, x: torch.Tensor, edges: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        from torch_geometric.nn import global_max_pool, global_mean_pool

        h = self.norm(self.gcn(x, edges).relu(), batch)
        if self.kind == "edge":
            h, edges, batch, _ = self.pool(h, edges, batch)
        else:
            h, edges, _, batch, *_ = self.pool(h, edges, batch=batch)
        return torch.cat([global_mean_pool(h, batch), global_max_pool(h, batch)], -1)


def _pooled(pool: str) -> Case:
    batch = torch.tensor([0] * 6 + [1] * 6)
    edges = torch.cat([torch.randint(0, 6, (2, 20)), torch.randint(6, 12, (2, 20))], 1)
    return Case(_Pooled(pool).double().train(), (image(NODES, WIDTH), edges, batch))


class _Readout(nn.Module):
    """An aggregation of the nodes of each graph."""

    def __init__(self, make: Callable[[Any], nn.Module]) -> None:
        import torch_geometric.nn as gnn

        super().__init__()
        self.first, self.readout = nn.Linear(WIDTH, WIDTH), make(gnn)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return self.readout(self.first(x).tanh(), index)


READOUTS: dict[str, Callable[[Any], nn.Module]] = {
    "SoftmaxAggregation": lambda g: g.aggr.SoftmaxAggregation(learn=True),
    "PowerMeanAggregation": lambda g: g.aggr.PowerMeanAggregation(learn=True),
    "MedianAggregation": lambda g: g.aggr.MedianAggregation(),
    "QuantileAggregation": lambda g: g.aggr.QuantileAggregation(0.3),
    "VarAggregation": lambda g: g.aggr.VarAggregation(),
    "SortAggregation": lambda g: g.aggr.SortAggregation(k=3),
    "LSTMAggregation": lambda g: g.aggr.LSTMAggregation(WIDTH, 8),
    "GRUAggregation": lambda g: g.aggr.GRUAggregation(WIDTH, 8),
    "Set2Set": lambda g: g.aggr.Set2Set(WIDTH, 2),
    "SetTransformerAggregation": lambda g: g.aggr.SetTransformerAggregation(WIDTH, heads=2, dropout=0.2),
    "DeepSetsAggregation": lambda g: g.aggr.DeepSetsAggregation(nn.Linear(WIDTH, 8), nn.Linear(8, 8)),
    "AttentionalAggregation": lambda g: g.aggr.AttentionalAggregation(nn.Linear(WIDTH, 1)),
    "MLPAggregation": lambda g: g.aggr.MLPAggregation(WIDTH, 8, max_num_elements=8, num_layers=1),
    "GraphMultisetTransformer": lambda g: g.aggr.GraphMultisetTransformer(WIDTH, 2, heads=2),
    "EquilibriumAggregation": lambda g: g.aggr.EquilibriumAggregation(WIDTH, 4, [8], grad_iter=2),
}


def _readout(name: str) -> Case:
    index = torch.tensor([0] * 5 + [1] * 7)
    return Case(_Readout(READOUTS[name]).double().train(), (image(NODES, WIDTH), index))


def _molecule(kind: str, **options: Any) -> Case:
    import torch_geometric.nn as gnn

    model = getattr(gnn, kind)(**options)
    batch = torch.tensor([0] * 6 + [1] * 6)
    return Case(model.train(), (torch.randint(1, 9, (NODES,)), torch.rand(NODES, 3) * 3, batch), tolerance=1e-4)


def _attentive() -> Case:
    import torch_geometric.nn as gnn

    model = gnn.AttentiveFP(WIDTH, 8, 4, edge_dim=3, num_layers=2, num_timesteps=2, dropout=0.1)
    batch = torch.tensor([0] * 6 + [1] * 6)
    return Case(model.double().train(), (image(NODES, WIDTH), edges(), image(EDGES, 3), batch))


class _Autoencoder(nn.Module):
    """A variational autoencoder of graphs: its loss samples edges that are not there."""

    def __init__(self) -> None:
        import torch_geometric.nn as gnn

        super().__init__()

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mean, self.deviation = gnn.GCNConv(WIDTH, 4), gnn.GCNConv(WIDTH, 4)

            def forward(self, x: torch.Tensor, edges: torch.Tensor) -> Any:
                return self.mean(x, edges), self.deviation(x, edges)

        self.body = gnn.VGAE(Encoder())

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        z = self.body.encode(x, edges)
        return self.body.recon_loss(z, edges) + self.body.kl_loss() / NODES


class _Hetero(nn.Module):
    """Two kinds of nodes and of edges."""

    def __init__(self, kind: str) -> None:
        import torch_geometric.nn as gnn

        super().__init__()
        edges = [("a", "to", "b"), ("b", "of", "a")]
        if kind == "HGTConv":
            self.layer = gnn.HGTConv(WIDTH, 8, (["a", "b"], edges), heads=2)
        elif kind == "HANConv":
            self.layer = gnn.HANConv(WIDTH, 8, (["a", "b"], edges), heads=2, dropout=0.1)
        else:
            self.layer = gnn.HeteroConv({e: gnn.SAGEConv(WIDTH, 8) for e in edges}, aggr="sum")

    def forward(self, x: dict[str, torch.Tensor], edges: dict[tuple[str, str, str], torch.Tensor]) -> torch.Tensor:
        out = self.layer(x, edges)
        return torch.cat([out["a"], out["b"]])


def _hetero(kind: str) -> Case:
    x = {"a": image(NODES, WIDTH), "b": image(NODES, WIDTH)}
    between = {("a", "to", "b"): edges(), ("b", "of", "a"): edges()}
    return Case(_Hetero(kind).double().train(), (x, between))


def _sparse(kind: str) -> Case:
    """The edges as a sparse matrix."""
    values = weights()
    adjacency = torch.sparse_coo_tensor(edges(), values, (NODES, NODES)).coalesce()
    if kind == "csr":
        adjacency = adjacency.to_sparse_csr()
    return twice(lambda g: g.GCNConv(WIDTH, WIDTH, normalize=False), adjacency)


def _data() -> Case:
    """A whole ``Data`` object goes in."""
    from torch_geometric.data import Batch, Data

    class Model(nn.Module):
        def __init__(self) -> None:
            import torch_geometric.nn as gnn

            super().__init__()
            self.layer = gnn.GCNConv(WIDTH, WIDTH)
            self.pool = gnn.global_add_pool

        def forward(self, data: Any) -> torch.Tensor:
            return self.pool(self.layer(data.x, data.edge_index).relu(), data.batch)

    batch = Batch.from_data_list([Data(x=image(NODES, WIDTH), edge_index=edges()) for _ in range(2)])
    return Case(Model().double().train(), (batch,))


MODELS: dict[str, Callable[[], Case]] = {
    "GCN": lambda: _network("GCN", WIDTH, 8, 2, 4, dropout=0.2, norm="batch", jk="cat"),
    "GraphSAGE": lambda: _network("GraphSAGE", WIDTH, 8, 2, 4, dropout=0.2, jk="max"),
    "GIN": lambda: _network("GIN", WIDTH, 8, 2, 4, dropout=0.2, norm="layer"),
    "GAT": lambda: _network("GAT", WIDTH, 8, 2, 4, dropout=0.2, jk="lstm"),
    "GraphUNet": lambda: _network("GraphUNet", WIDTH, 8, 4, depth=2),
    "VGAE": lambda: Case(_Autoencoder().double().train(), (image(NODES, WIDTH), edges())),
    "AttentiveFP": _attentive,
    **{f"{pool} pooling": lambda pool=pool: _pooled(pool) for pool in ("top-k", "SAG", "edge")},
    **{name: lambda name=name: _readout(name) for name in READOUTS},
    **{name: lambda name=name: _hetero(name) for name in ("HGTConv", "HANConv", "HeteroConv")},
    "sparse adjacency, COO": lambda: _sparse("coo"),
    "sparse adjacency, CSR": lambda: _sparse("csr"),
    "Data": _data,
}
