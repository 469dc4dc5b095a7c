"""Networks on a graph: numbers by hand, dense matrices, and torch-geometric's own layers."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from diffvae.nn import (
    GCN,
    Adjacency,
    GraphEncoder,
    GraphiteDecoder,
    InnerProductDecoder,
    Propagated,
    normalized_adjacency,
)

PATH = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])  # 0 - 1 - 2, and 3 alone


def random_graph(n=30, seed=0):
    upper = np.triu(np.random.default_rng(seed).random((n, n)) < 0.12, k=1)
    upper[:, -1] = False  # the last cell is isolated
    return (upper | upper.T).astype(float)


def normal(*shape, seed=0, **kwargs):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **kwargs)


def test_normalised_adjacency_by_hand():
    # degrees with self-loops: 2, 3, 2, 1
    a, b = 1 / 2, 1 / np.sqrt(6)
    expected = [[a, b, 0, 0], [b, 1 / 3, b, 0], [0, b, a, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(normalized_adjacency(PATH).toarray(), expected, rtol=1e-6)
    assert normalized_adjacency(PATH).dtype == np.float32


def test_without_self_loops_or_normalisation_by_hand():
    c = 1 / np.sqrt(2)
    found = normalized_adjacency(PATH, self_loops=False).toarray()
    np.testing.assert_allclose(found, [[0, c, 0, 0], [c, 0, c, 0], [0, c, 0, 0], [0, 0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(normalized_adjacency(PATH, normalize=False).toarray(), PATH + np.eye(4))
    np.testing.assert_array_equal(normalized_adjacency(PATH, normalize=False, self_loops=False).toarray(), PATH)


def test_weights_and_the_diagonal_do_not_count_and_the_graph_stays_as_it_is():
    graph = sparse.csr_matrix(7.5 * PATH + 3 * np.eye(4))
    before = graph.toarray()
    np.testing.assert_array_equal(normalized_adjacency(graph).toarray(), normalized_adjacency(PATH).toarray())
    np.testing.assert_array_equal(graph.toarray(), before)
    np.testing.assert_array_equal(
        normalized_adjacency(graph.astype(bool)).toarray(), normalized_adjacency(PATH).toarray()
    )


def test_one_convolution_by_hand():
    layer = GCN(2, 1)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.bias.fill_(10)
    h = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 3]])  # products 1, 2, 2, 6
    found = layer(h, Adjacency(normalized_adjacency(PATH))).flatten().tolist()
    root = 6**-0.5
    assert found == pytest.approx([10 + 0.5 + 2 * root, 10 + 3 * root + 2 / 3, 10 + 2 * root + 1, 16], rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch-geometric scripts modules as it is imported
def test_convolution_is_that_of_torch_geometric():
    from torch_geometric.nn import GCNConv

    graph = random_graph()
    ours, theirs = GCN(7, 5), GCNConv(7, 5)
    with torch.no_grad():
        ours.bias.copy_(normal(5))
        theirs.lin.weight.copy_(ours.linear.weight)
        theirs.bias.copy_(ours.bias)
    h = normal(30, 7, seed=1)
    links = torch.from_numpy(np.stack(graph.nonzero()))
    torch.testing.assert_close(ours(h, Adjacency(normalized_adjacency(graph))), theirs(h, links))


def test_edge_index_names_every_entry_with_its_target_last():
    matrix = normalized_adjacency(random_graph())
    adjacency = Adjacency(matrix)
    sources, targets = adjacency.edge_index.numpy()
    again = sparse.csr_matrix((adjacency.matrix.values().numpy(), (targets, sources)), shape=matrix.shape)
    np.testing.assert_array_equal(again.toarray(), matrix.toarray())


def test_propagation_has_the_gradient_of_the_dense_product():
    matrix = normalized_adjacency(random_graph())
    dense = torch.from_numpy(matrix.toarray())
    for weight in (normal(30, 4, seed=2), torch.ones(30, 4)):  # ones come expanded, with strides of zero
        a, b = (normal(30, 4).requires_grad_() for _ in range(2))
        ours, theirs = Adjacency(matrix) @ a, dense @ b
        torch.testing.assert_close(ours, theirs)
        (ours * weight).sum().backward()
        (theirs * weight).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    summed = normal(30, 4).requires_grad_()
    (Adjacency(matrix) @ summed).sum().backward()
    torch.testing.assert_close(summed.grad, (dense @ torch.ones(30, 4)))


def test_graphite_decoder_is_its_formula_on_one_matrix_z_and_x():
    graph = random_graph()
    decoder = GraphiteDecoder(3, 6, 8)
    with torch.no_grad():
        decoder.first.bias.copy_(normal(8))
        decoder.last.bias.copy_(normal(3))
    z, x = normal(30, 3), normal(30, 6, seed=1)
    a = torch.from_numpy(normalized_adjacency(graph).toarray())
    w = torch.cat([decoder.first.linear.weight, decoder.expression.weight], dim=1)
    h = F.relu(a @ torch.cat([z, x], dim=1) @ w.T + decoder.first.bias)
    expected = (z + a @ h @ decoder.last.linear.weight.T + decoder.last.bias) / 2
    adjacency = Adjacency(normalized_adjacency(graph))
    torch.testing.assert_close(decoder(z, x, adjacency), expected)
    torch.testing.assert_close(decoder.finish(z, decoder.product(x), adjacency), expected)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_propagated_expression_gives_the_same_networks_and_gradients(precision, tolerance, dropout):
    adjacency = Adjacency(normalized_adjacency(random_graph()))
    x, z = normal(30, 9, seed=1).abs(), normal(30, 3)
    torch.manual_seed(0)
    encoder, decoder = GraphEncoder(9, 8, 3, dropout=dropout), GraphiteDecoder(3, 9, 8)
    results = []
    for given in (x, Propagated(x, adjacency, precision)):
        assert len(given) == 30
        encoder.zero_grad()
        decoder.zero_grad()
        outputs = [*encoder(given, adjacency, torch.Generator().manual_seed(2)), decoder(z, given, adjacency)]
        sum((o * normal(*o.shape, seed=3)).sum() for o in outputs).backward()
        gradients = [p.grad.clone() for net in (encoder, decoder) for p in net.parameters()]
        assert all(g.dtype == torch.float32 and g.is_contiguous() for g in gradients)
        results.append([*(o.detach() for o in outputs), *gradients])
    for expected, found in zip(*results, strict=True):
        assert (found - expected).norm() <= tolerance * expected.norm()
    assert torch.equal(InnerProductDecoder()(z, given, adjacency), z)


def test_one_convolution_takes_propagated_expression_in_half_precision():
    adjacency, x = Adjacency(normalized_adjacency(random_graph())), normal(30, 9).abs()
    layer = GCN(9, 2)
    half = layer(Propagated(x, adjacency, torch.bfloat16), adjacency)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, layer(x, adjacency), rtol=0.02, atol=0.02)


def test_graphite_weights_are_drawn_as_one_matrix():
    decoder = GraphiteDecoder(40, 60, 100)
    bound = (6 / 200) ** 0.5
    for weight in (decoder.first.linear.weight, decoder.expression.weight):
        assert weight.abs().max() <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_inner_product_decoder_leaves_z_as_it_is():
    z, x, decoder = normal(4, 2), normal(4, 3), InnerProductDecoder()
    adjacency = Adjacency(normalized_adjacency(PATH))
    assert decoder(z, x, adjacency) is z
    assert decoder.product(x).shape == (4, 0)
    assert decoder.finish(z, decoder.product(x), adjacency) is z


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_encoder_in_pieces_is_the_encoder(conv):
    encoder = GraphEncoder(6, 8, 3, conv=conv).eval()
    x, adjacency = normal(30, 6), Adjacency(normalized_adjacency(random_graph()))
    whole = encoder(x, adjacency)
    assert [tuple(part.shape) for part in whole] == [(30, 3), (30, 3)]
    pieces = encoder.finish(torch.cat([encoder.product(x[:11]), encoder.product(x[11:])]), adjacency)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b)


def test_encoder_is_its_formula():
    encoder = GraphEncoder(6, 8, 3).eval()
    a = torch.from_numpy(normalized_adjacency(random_graph()).toarray())
    x = normal(30, 6)
    h = F.relu(a @ x @ encoder.first.linear.weight.T + encoder.first.bias)
    both = a @ h @ encoder.heads.linear.weight.T + encoder.heads.bias
    mu, logvar = encoder(x, Adjacency(normalized_adjacency(random_graph())))
    torch.testing.assert_close(mu, both[:, :3])
    torch.testing.assert_close(logvar, both[:, 3:])


def test_sage_is_the_plain_mean_of_the_neighbours_beside_the_cell():
    graph = random_graph()
    layer = GraphEncoder(6, 8, 3, conv="sage").first
    adjacency = Adjacency(normalized_adjacency(graph, self_loops=False))
    mean = torch.from_numpy((graph / np.maximum(graph.sum(1, keepdims=True), 1)).astype(np.float32))
    a, b = (normal(30, 6).requires_grad_() for _ in range(2))
    ours = layer(a, adjacency.ones)
    theirs = mean @ b @ layer.lin_l.weight.T + layer.lin_l.bias + b @ layer.lin_r.weight.T
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    # and the encoder takes it so, whatever the adjacency weighs
    encoder, x = GraphEncoder(6, 8, 3, conv="sage").eval(), normal(30, 6)
    weighed, plain = (Adjacency(normalized_adjacency(graph, normalize=n)) for n in (True, False))
    torch.testing.assert_close(encoder(x, weighed), encoder(x, plain))


def test_attention_sums_to_one_and_lies_on_links():
    graph = random_graph()
    encoder = GraphEncoder(6, 8, 3, conv="gat").eval()
    adjacency = Adjacency(normalized_adjacency(graph))
    weights = encoder.attention(normal(30, 6), adjacency).detach().numpy()
    sources, targets = adjacency.edge_index.numpy()
    assert (weights > 0).all()
    np.testing.assert_allclose(np.bincount(targets, weights), 1, rtol=1e-6)
    assert ((graph[targets, sources] == 1) | (targets == sources)).all()
    assert weights[targets == 29] == pytest.approx([1])  # the isolated cell has nobody else
    with pytest.raises(ValueError, match="conv is 'gcn'; only conv='gat' has attention weights"):
        GraphEncoder(6, 8, 3).attention(normal(30, 6), adjacency)


def test_dropout_is_drawn_from_the_generator_and_only_in_training():
    encoder = GraphEncoder(6, 64, 3, dropout=0.5)
    x, adjacency = normal(30, 6), Adjacency(normalized_adjacency(random_graph()))
    state = torch.random.get_rng_state()
    a, b, c = (encoder(x, adjacency, torch.Generator().manual_seed(s))[0] for s in (0, 0, 1))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.allclose(a, c)
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own generator is left alone
    encoder.eval()
    torch.testing.assert_close(encoder(x, adjacency), encoder(x, adjacency), rtol=0, atol=0)
    draws = torch.Generator().manual_seed(0)
    mean = torch.stack([encoder.train()(x, adjacency, draws)[0] for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, encoder.eval()(x, adjacency)[0], rtol=0, atol=0.1)
