"""Recurrent networks against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, randn
from torch import nn

NETWORKS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
OPTIONS = [{}, {"num_layers": 2}, {"bidirectional": True}, {"batch_first": True}, {"bias": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_recurrent_networks_have_the_gradients_of_autograd(name, options):
    check(double(NETWORKS[name](3, 4, **options)), randn(3, 2, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_given_state(name):
    h, c = randn(2, 2, 4), randn(2, 2, 4)
    module = double(NETWORKS[name](3, 4, num_layers=2))
    check(module, randn(3, 2, 3), (h, c) if name == "LSTM" else h)


def test_relu_and_projection():
    check(double(nn.RNN(3, 4, nonlinearity="relu")), randn(3, 2, 3))
    check(double(nn.LSTM(3, 4, proj_size=2)), randn(3, 2, 3))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fused_lstm(options):
    """float32 on the CPU is one oneDNN kernel per layer and direction."""
    torch.manual_seed(0)
    graph = check(nn.LSTM(3, 4, **options), torch.randn(5, 2, 3), tolerance=1e-4)
    kernels = {str(n.target) for n in graph.nodes}
    assert "aten.mkldnn_rnn_layer.default" in kernels or not torch.backends.mkldnn.is_available()


def test_fused_lstm_second_order():
    torch.manual_seed(0)
    module = nn.LSTM(3, 4)

    def f(x, h, c):
        return module(x, (h, c))[0].sin()

    check_second(f, torch.randn(3, 2, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4), tolerance=1e-4)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell], ids=lambda c: c.__name__)
def test_recurrent_cells_have_the_gradients_of_autograd(cell):
    check(double(cell(3, 4)), randn(2, 3), randn(2, 4))
    check(double(cell(3, 4)), randn(2, 3))


def test_lstm_cell():
    check(double(nn.LSTMCell(3, 4)), randn(2, 3), (randn(2, 4), randn(2, 4)))
    check(double(nn.LSTMCell(3, 4, bias=False)), randn(2, 3))
