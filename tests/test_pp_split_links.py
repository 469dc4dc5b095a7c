"""Edges to learn from, to choose by and to be judged by: no link is on two sides, whatever its direction."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffvae.pp import DataError, split_links

N = 120


def cells(density=0.06, seed=0):
    """Cells whose graph names most edges in one direction only, some in both, and a diagonal."""
    rng = np.random.default_rng(seed)
    graph = (rng.random((N, N)) < density) * rng.normal(size=(N, N))
    graph[0, 1], graph[1, 0] = 2, -2  # opposite entries are an edge all the same
    adata = AnnData(np.zeros((N, 2), np.float32), obs=pd.DataFrame(index=[f"c{i}" for i in range(N)]))
    adata.obs["type"] = pd.Categorical(np.array(["a", "b", "c"])[np.arange(N) % 3])
    adata.obsp["cell_graph"] = sparse.csr_matrix(graph)
    return adata


def truth(adata):
    dense = adata.obsp["cell_graph"].toarray() != 0
    return np.triu(dense | dense.T, k=1)


def test_every_edge_is_on_one_side_with_both_its_directions():
    adata = cells()
    before = adata.obsp["cell_graph"].copy()
    split = split_links(adata, validation_size=0.1, test_size=0.2)
    parts = (split.train_edges, split.validation_edges, split.test_edges)
    n_edges = truth(adata).sum()
    assert [len(p) for p in parts] == [
        n_edges - round(0.1 * n_edges) - round(0.2 * n_edges),
        round(0.1 * n_edges),
        round(0.2 * n_edges),
    ]
    found = np.zeros((N, N), int)
    for part in parts:
        assert (part[:, 0] < part[:, 1]).all()
        found[part[:, 0], part[:, 1]] += 1
    np.testing.assert_array_equal(found, truth(adata))
    # the graph to learn from is its edges in both directions, and no other
    expected = np.zeros((N, N))
    expected[tuple(split.train_edges.T)] = 1
    np.testing.assert_array_equal(split.train.toarray(), expected + expected.T)
    assert (adata.obsp["cell_graph"] != before).nnz == 0


@pytest.mark.parametrize("kind", ["uniform", "degree", "within_type"])
def test_negatives_are_linked_nowhere_and_in_one_set(kind):
    adata = cells()
    split = split_links(adata, negatives=kind, groupby="type", negatives_per_edge=1.5)
    assert len(split.test_negatives) == round(1.5 * len(split.test_edges))
    assert len(split.validation_negatives) == round(1.5 * len(split.validation_edges))
    both = np.concatenate([split.validation_negatives, split.test_negatives])
    assert len(np.unique(both, axis=0)) == len(both)
    assert (both[:, 0] < both[:, 1]).all()
    assert not truth(adata)[both[:, 0], both[:, 1]].any()
    if kind == "within_type":
        types = adata.obs["type"].to_numpy()
        assert (types[both[:, 0]] == types[both[:, 1]]).all()


def test_same_seed_same_split_other_seed_another():
    a, b, c = (split_links(cells(), rng=seed) for seed in (0, 0, 1))
    for name in ("train_edges", "validation_edges", "test_edges", "validation_negatives", "test_negatives"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).tolist() != getattr(c, name).tolist()


def test_the_split_does_not_depend_on_the_direction_in_which_edges_are_written():
    adata = cells()
    turned = cells()
    turned.obsp["cell_graph"] = sparse.csr_matrix(adata.obsp["cell_graph"].T)
    np.testing.assert_array_equal(split_links(adata).test_edges, split_links(turned).test_edges)


def test_keep_connected():
    adata = cells(density=0.012)
    whole = connected_components(sparse.csr_matrix(truth(adata)), directed=False)[0]
    kept, not_kept = (split_links(adata, test_size=0.2, keep_connected=k).train for k in (True, False))
    assert connected_components(kept)[0] == whole < connected_components(not_kept)[0]
    with pytest.raises(DataError, match="can be removed without breaking the graph apart; hold out fewer"):
        split_links(adata, test_size=0.8, keep_connected=True)


def test_nothing_need_be_held_out():
    split = split_links(cells(), validation_size=0, test_size=0)
    assert len(split.train_edges) == truth(cells()).sum()
    for name in ("validation_edges", "test_edges", "validation_negatives", "test_negatives"):
        assert getattr(split, name).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_size": -0.1}, r"validation_size is -0\.1; it must be a number of at least 0 and below 1"),
        ({"test_size": 1.0}, r"test_size is 1\.0; it must be"),
        ({"test_size": float("nan")}, "test_size is nan"),
        (
            {"validation_size": 0.5, "test_size": 0.5},
            r"validation_size=0\.5 and test_size=0\.5 leave no edge",
        ),
        ({"negatives": "hard"}, "negatives is 'hard'; it must be 'uniform', 'degree' or 'within_type'"),
        ({"negatives_per_edge": 0}, "negatives_per_edge is 0; it must be a number above 0"),
        ({"negatives": "within_type"}, "negatives='within_type' needs the column of the types"),
        ({"rng": -1}, "rng is -1"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_links(cells(), **arguments)


def test_graphs_that_cannot_be_split_are_refused_with_a_sentence():
    adata = cells()
    with pytest.raises(DataError, match=r"adata\.obsp\['other'\] is missing; there are: cell_graph"):
        split_links(adata, "other")
    with pytest.raises(DataError, match=r"adata\.obs\['lineage'\] is missing; there are: type"):
        split_links(adata, negatives="within_type", groupby="lineage")
    del adata.obsp["cell_graph"]
    with pytest.raises(DataError, match=r"'cell_graph'\] is missing; run diffvae\.pp\.cell_graph\(adata\) first"):
        split_links(adata)
    adata.obsp["cell_graph"] = sparse.eye_array(N, format="csr")
    with pytest.raises(DataError, match="has no edge between two cells"):
        split_links(adata)
    adata.obsp["cell_graph"] = sparse.csr_matrix(([np.nan], ([0], [1])), shape=(N, N))
    with pytest.raises(DataError, match="holds NaN or infinite values; make the graph again"):
        split_links(adata)
    adata.obsp["cell_graph"] = 1 - np.eye(N)  # dense, and nobody is unlinked
    with pytest.raises(DataError, match=r"pairs without an edge \(uniform\) are needed, but only 0"):
        split_links(adata)


@pytest.mark.parametrize(("n_edges", "sizes"), [(4, (0.1, 0.1)), (2, (0.5, 0.49)), (7, (0.5, 0.49))])
def test_too_few_edges_are_refused(n_edges, sizes):
    adata = cells()
    ends = np.arange(n_edges)
    adata.obsp["cell_graph"] = sparse.csr_matrix((np.ones(n_edges), (ends, ends + 1)), shape=(N, N))
    with pytest.raises(DataError, match=f"has {n_edges} edges, too few for validation_size="):
        split_links(adata, validation_size=sizes[0], test_size=sizes[1])
