import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from diffvae.pp import DataError, align_genes, prepare, prepare_new


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def genes(names):
    return pd.DataFrame(index=pd.Index(names, dtype=str))


NAMES = [f"Gene{i}" for i in range(60)]


def counts(n_cells=80, seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.4, (n_cells, 1))
    x = rng.poisson(depth * np.random.default_rng(9).gamma(0.7, 3.0, 60) + 0.05).astype(np.float32)
    return AnnData(sp.csr_matrix(x), var=genes(NAMES))


@pytest.fixture
def model():
    trained = prepare(counts(), n_top_genes=25, validation_size=0, copy=True)
    scaling = {
        "gene_names": list(trained.var_names),
        "minimum": trained.var["unit_min"].to_numpy(),
        "maximum": trained.var["unit_max"].to_numpy(),
        "target_sum": trained.uns["diffvae"]["prepare"]["target_sum"],
    }
    return trained, scaling


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_align_by_hand(form):
    adata = AnnData(form(np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]])), var=genes(["a", "b", "c"]))
    matrix, report = align_genes(adata, ["c", "x", "a", "y"], max_missing=0.5)
    assert dense(matrix).tolist() == [[3, 0, 1, 0], [6, 0, 4, 0]]
    assert sp.issparse(matrix) == sp.issparse(adata.X)
    assert (report["n_missing"], report["missing_share"], report["missing"]) == (2, 0.5, ["x", "y"])
    assert report["warnings"] == [
        "2 of the 4 genes that the model needs (50.0%) are missing and were taken as 0: 'x', 'y'."
    ]
    assert align_genes(adata, ["b", "a"])[1]["warnings"] == []


@pytest.mark.parametrize(
    ("var", "how"),
    [
        (genes([n.upper() for n in NAMES]), r"var_names, whatever their case \('GENE59' is 'Gene59'\)"),
        (genes(range(60)).assign(symbol=NAMES), r"var\['symbol'\] \('59' is 'Gene59'\)"),
        (genes([f"mm10_{n}" for n in NAMES]), r"var_names, in part \('mm10_Gene59' is 'Gene59'\)"),
    ],
)
def test_other_forms_of_names_are_matched_and_said(var, how):
    adata = AnnData(np.arange(180.0).reshape(3, 60), var=var)
    order = NAMES[::-1]
    matrix, report = align_genes(adata, order)
    assert (matrix == adata.X[:, ::-1]).all()
    assert len(report["warnings"]) == 1
    assert re.search(f"^Genes of the new cells are matched to those of the model by {how}", report["warnings"][0])


def test_names_that_do_not_match_are_refused():
    adata = AnnData(np.ones((3, 60)), var=genes([f"x{i}" for i in range(60)]))
    with pytest.raises(DataError, match=r"60 of the 60 genes.*more than max_missing=0.2 allows") as error:
        align_genes(adata, NAMES)
    assert error.match("names such as 'Gene0', 'Gene1', the data 'x0', 'x1'")


def test_ensembl_versions_do_not_matter():
    plain = [f"ENSG{i:011d}" for i in range(5)]
    adata = AnnData(np.arange(15.0).reshape(3, 5), var=genes([f"{name}.{i}" for i, name in enumerate(plain)]))
    assert (align_genes(adata, plain)[0] == adata.X).all()
    bare = AnnData(adata.X, var=genes(plain))
    assert (align_genes(bare, adata.var_names)[0] == adata.X).all()
    others = AnnData(adata.X, var=genes([f"{name}.{i + 7}" for i, name in enumerate(plain)]))
    assert (align_genes(others, adata.var_names)[0] == adata.X).all()


def test_two_genes_of_a_model_never_take_one_gene_of_the_data():
    two = [f"GRCh38_GENE{i}" for i in range(5)] + [f"mm10_Gene{i}" for i in range(5)]
    adata = AnnData(np.ones((3, 5)), var=genes([f"GENE{i}" for i in range(5)]))
    matrix, report = align_genes(adata, two, max_missing=0.5)
    assert report["missing"] == two[5:]
    assert not matrix[:, 5:].any()


def test_names_that_occur_twice_are_told_apart_as_in_training():
    with pytest.warns(UserWarning, match="not unique"):
        adata = AnnData(np.array([[1.0, 2.0]]), var=genes(["a", "a"]))
    assert align_genes(adata, ["a-1", "a"])[0].tolist() == [[2, 1]]


def test_bad_arguments():
    adata = AnnData(np.ones((1, 2)), var=genes(["a", "b"]))
    with pytest.raises(ValueError, match="max_missing is 2"):
        align_genes(adata, ["a"], max_missing=2)
    with pytest.raises(ValueError, match="gene_names has 2 names, 1 of them different"):
        align_genes(adata, ["a", "a"])


def test_training_cells_as_new_cells_get_what_they_had(model):
    trained, scaling = model
    unit, report = prepare_new(counts(), **scaling)
    assert (unit != trained.layers["unit"]).nnz == 0
    assert report["kind"] == "counts"
    assert report["clipped_share"] == 0
    assert report["warnings"] == []


def test_order_of_genes_and_form_do_not_matter(model):
    _, scaling = model
    new = counts(30, seed=1)
    unit, report = prepare_new(new, **scaling)
    shuffled = AnnData(new.X.toarray(), var=new.var)[:, ::-1]
    again, other = prepare_new(shuffled, **scaling)
    np.testing.assert_allclose(again, unit.toarray(), atol=1e-5)
    assert other["clipped_share"] == pytest.approx(report["clipped_share"])
    assert report["clipped_share"] > 0


def test_one_cell_is_enough(model):
    _, scaling = model
    unit, _ = prepare_new(counts(3, seed=1)[:1], **scaling)
    assert unit.shape == (1, 25)


def test_logs_use_raw_where_it_has_more_genes(model):
    trained, scaling = model
    unit, report = prepare_new(trained[:, :5].copy(), **scaling)
    assert report["source"] == "adata.raw"
    assert report["n_missing"] == 0
    np.testing.assert_allclose(unit.toarray(), trained.layers["unit"].toarray(), atol=1e-6)


def test_missing_genes_are_zero_or_too_many(model):
    _, scaling = model
    new = counts(30, seed=1)
    lacking = scaling["gene_names"][:3]
    fewer = new[:, ~new.var_names.isin(lacking)]
    unit, report = prepare_new(fewer, **scaling)
    assert report["missing"] == lacking
    assert unit[:, :3].nnz == 0
    assert any("3 of the 25 genes" in warning for warning in report["warnings"])
    with pytest.raises(DataError, match=r"12\.0%"):
        prepare_new(fewer, **scaling, max_missing=0.1)


def test_another_scale_is_noticed(model):
    _, scaling = model
    new = counts(30, seed=1)
    new.X = np.log2(1 + new.X.toarray() / new.X.sum(axis=1).A1[:, None] * 1e6)
    _, report = prepare_new(new, **scaling)
    assert "adata.X is log2(x + 1) of cells that sum to 1e+06" in report["warnings"][0]
    assert "of the values lie outside the range of the training cells" in report["warnings"][1]


def test_sentences(model):
    trained, scaling = model
    with pytest.raises(DataError, match="trained on log-normalised values with an unknown target sum"):
        prepare_new(counts(), **(scaling | {"target_sum": None}))
    scaled = trained.copy()
    scaled.X = trained.X.toarray() - 1
    with pytest.raises(DataError, match=r"pass adata\.raw\.to_adata"):
        prepare_new(scaled, **scaling)
