import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import diffvae as dv
from diffvae import _keys, tl
from diffvae.pp import DataError
from diffvae.tl._gene_weights import scaled_weights

GENES = ["g0", "g1", "g2", "g3", "g4"]
OMEGA = np.array([[3.0, -2, 1, 0, 0], [0, 4, 0, -5, 1], [2, 0, 0, 0, -9]])


class Linear:
    """A model whose weights are known; its Jacobian, unlike PCA's, is not its weights."""

    n_latent = 3
    gene_names = pd.Index(GENES)

    def gene_weights(self):
        return OMEGA

    def gene_jacobian(self, z):
        self.seen = z
        return OMEGA[:, ::-1]


def cells(n=40, *, make=np.asarray) -> ad.AnnData:
    """Group a (a quarter of the cells) has more of g0 and g3, and less of g1."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.1, (n, 5)) + 1
    x[: n // 4] += [2, -0.5, 0, 1, 0]
    obs = pd.DataFrame({"group": ["a"] * (n // 4) + ["b"] * (n - n // 4)}, index=[f"cell {i}" for i in range(n)])
    adata = ad.AnnData(make(x.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))
    adata.obsm["X_diffvae"] = rng.normal(size=(n, 3)).astype(np.float32)
    return adata


def chosen(adata, *rows):
    """Store which dimensions encode which group: (group, dimension, side), in the order of their ranks."""
    table = pd.DataFrame(rows, columns=["group", "dimension", "side"])
    table["rank"] = table.groupby("group").cumcount() + 1
    table["chosen"] = True
    adata.uns.setdefault("diffvae", {})["latent_dimensions"] = table
    return adata


def with_weights(*rows, **options):
    adata = cells(**options)
    tl.gene_weights(adata, Linear())
    return chosen(adata, *rows)


def listed(table, group="a", ranking="weights"):
    own = table[(table["group"] == group) & (table["ranking"] == ranking)]
    return own[["gene", "direction", "n_dims", "dimensions", "weight"]].values.tolist()


def test_weights_and_jacobian_are_written_genes_by_dimensions():
    adata, model = cells(), Linear()
    tl.gene_weights(adata, model)
    assert (adata.varm["diffvae_gene_weights"] == OMEGA.T).all()
    assert (adata.varm["diffvae_gene_jacobian"] == OMEGA[:, ::-1].T).all()
    assert model.seen.shape == (40, 3)
    adata = cells()
    other = tl.gene_weights(adata, model, copy=True)
    assert not adata.uns
    assert not len(adata.varm)
    assert len(tl.high_weight_genes(chosen(other, ("a", 0, "+")), "group", copy=True))
    assert "high_weight_genes" not in other.uns["diffvae"]


def test_agreement_by_hand():
    adata = cells()
    tl.gene_weights(adata, Linear(), n_compared=2)
    table = adata.uns["diffvae"]["gene_weights"]
    assert table["dimension"].tolist() == [0, 1, 2]
    # dimension 0: ranks 5, 1, 4, 2.5, 2.5 against those of 0, 0, 1, -2, 3: 2.5, 2.5, 4, 1, 5
    a, b = np.array([5, 1, 4, 2.5, 2.5]), np.array([2.5, 2.5, 4, 1, 5])
    assert table["spearman"][0] == pytest.approx(np.corrcoef(a, b)[0, 1])
    # the two heaviest by either reading: {g0, g1} and {g4, g3}; {g3, g1} both times; {g4, g0} both times
    assert table["top_overlap"].tolist() == [0, 1, 1]


def test_jacobian_reads_a_sample_of_many_cells():
    seen = []
    for seed in (0, 0, 1):
        model = Linear()
        tl.gene_weights(cells(), model, n_cells=10, rng=seed)
        seen.append(model.seen)
    assert seen[0].shape == (10, 3)
    assert (seen[0] == seen[1]).all()
    assert not (seen[0] == seen[2]).all()


def test_pca_has_its_components_for_both():
    adata = dv.datasets.simulate_differentiation(80, 60, rng=0)
    dv.pp.prepare(adata)
    model = dv.model.PCA(n_latent=4).train(adata)
    tl.embed(adata, model)
    tl.gene_weights(adata, model)
    assert (adata.varm["diffvae_gene_weights"] == adata.varm["diffvae_gene_jacobian"]).all()
    agreement = adata.uns["diffvae"]["gene_weights"]
    assert agreement["spearman"].tolist() == pytest.approx([1] * 4)
    assert agreement["top_overlap"].tolist() == [1] * 4


def test_heaviest_genes_with_direction():
    table = tl.high_weight_genes(with_weights(("a", 0, "+")), "group", n_genes=2)
    assert listed(table) == [["g0", "up", 1, "0+", 3.0], ["g1", "down", 1, "0+", -2.0]]
    assert listed(table, ranking="jacobian") == [["g4", "up", 1, "0+", 3.0], ["g3", "down", 1, "0+", -2.0]]
    assert table["rank"].tolist() == [1, 2, 1, 2]
    # the side flips the direction; genes without weight are not listed
    table = tl.high_weight_genes(with_weights(("a", 0, "-")), "group", n_genes=5)
    assert listed(table)[:2] == [["g0", "down", 1, "0-", -3.0], ["g1", "up", 1, "0-", 2.0]]
    assert [row[0] for row in listed(table)] == ["g0", "g1", "g2"]
    # the first ranks only
    adata = with_weights(("a", 2, "+"), ("a", 0, "+"), ("a", 1, "+"))
    assert [row[0] for row in listed(tl.high_weight_genes(adata, "group", n_dims=2, n_genes=1))] == ["g4", "g0"]


def test_recurrence_counts_the_dimensions_in_common():
    rows = [("a", 0, "+"), ("a", 1, "-"), ("a", 2, "+"), ("b", 1, "+")]
    table = tl.high_weight_genes(with_weights(*rows), "group", n_genes=2)
    # tops: g0, g1 of 0+; g3, g1 of 1-, so weights 5 and -4; g4, g0 of 2+
    assert listed(table) == [
        ["g1", "down", 2, "0+, 1-", -3.0],
        ["g0", "up", 2, "0+, 2+", 2.5],
        ["g4", "down", 1, "2+", -9.0],
        ["g3", "up", 1, "1-", 5.0],
    ]
    assert listed(table, "b") == [["g3", "down", 1, "1+", -5.0], ["g1", "up", 1, "1+", 4.0]]


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_the_cells_themselves_confirm_or_not(make):
    adata = with_weights(("a", 0, "+"), ("a", 1, "+"), make=make)
    table = tl.high_weight_genes(adata, "group", n_genes=2).query("ranking == 'weights'").set_index("gene")
    x = adata.X if make is np.asarray else adata.X.toarray()
    for gene, row in table.iterrows():
        at = GENES.index(gene)
        assert row["difference"] == pytest.approx(x[:10, at].mean() - x[10:, at].mean(), rel=1e-5)
    # by the weights: g0 up, g3 down, g1 up (-2 + 4); in the cells g0 and g3 are up and g1 is down
    assert table["direction"].to_dict() == {"g1": "up", "g0": "up", "g3": "down"}
    assert table["confirmed"].to_dict() == {"g1": False, "g0": True, "g3": False}


def test_groups_without_dimensions_have_no_genes(tmp_path):
    adata = with_weights(("b", 0, "+"))
    table = tl.high_weight_genes(adata, "group")
    assert set(table["group"]) == {"b"}
    none = with_weights(("b", 0, "+"))
    none.uns["diffvae"]["latent_dimensions"]["chosen"] = False
    empty = tl.high_weight_genes(none, "group")
    assert len(empty) == 0
    assert empty.columns.tolist() == table.columns.tolist()
    none.write_h5ad(tmp_path / "a.h5ad")


def test_tables_survive_a_file(tmp_path):
    adata = with_weights(("a", 0, "+"), ("b", 1, "-"))
    table = tl.high_weight_genes(adata, "group")
    assert adata.uns["diffvae"]["high_weight_genes"] is table
    assert table.columns.tolist() == [
        *["group", "ranking", "rank", "gene", "direction", "n_dims", "dimensions", "weight", "difference", "confirmed"]
    ]
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    again = tl.high_weight_genes(back, "group")  # from the tables that were read
    assert again.astype(str).values.tolist() == table.astype(str).values.tolist()
    assert (back.varm["diffvae_gene_weights"] == OMEGA.T).all()


@pytest.mark.parametrize("seed", [0, pytest.param(2, marks=pytest.mark.large)])
def test_planted_drivers_come_back_in_their_direction(seed):
    adata = dv.datasets.simulate_differentiation(
        400, 150, tree={"stem": ["red", "white"]}, effect=2, noise=0.3, rng=seed
    )
    drivers = adata.uns["diffvae_truth"]["drivers"]
    truth = {(r.gene, r.branch): r.direction for r in drivers.itertuples()}
    dv.pp.prepare(adata)
    model = dv.model.PCA(n_latent=6).train(adata)
    tl.embed(adata, model)
    tl.gene_weights(adata, model)
    tl.latent_dimensions(adata, "cell_type", n_top=3)
    table = tl.high_weight_genes(adata, "cell_type", n_dims=3, n_genes=5).query("ranking == 'weights'")
    table = table[table["group"].isin(["red", "white"])]
    found = [truth.get((r.gene, r.group)) for r in table.itertuples()]
    right = [f == d for f, d in zip(found, table["direction"], strict=True)]
    assert len(table) >= 10
    assert np.mean(right) > 0.5  # a gene in eight is a driver of a branch
    assert all(r for r, f in zip(right, found, strict=True) if f is not None)  # none in the wrong direction

    adata.obs["permuted"] = np.random.default_rng(seed).permutation(adata.obs["cell_type"])
    tl.latent_dimensions(adata, "permuted", n_top=3)
    assert len(tl.high_weight_genes(adata, "permuted")) == 0


def test_what_does_not_fit_is_refused():
    adata = cells()
    with pytest.raises(ValueError, match="n_cells is 0"):
        tl.gene_weights(adata, Linear(), n_cells=0)
    with pytest.raises(DataError, match="The genes of adata are not those of the model"):
        tl.gene_weights(adata[:, ::-1].copy(), Linear())
    other = cells()
    other.obsm["X_diffvae"] = other.obsm["X_diffvae"][:, :2]
    with pytest.raises(DataError, match=r"has 2 dimensions, the model 3; run diffvae.tl.embed"):
        tl.gene_weights(other, Linear())
    with pytest.raises(DataError, match=r"\['latent_dimensions'\] is missing; run diffvae.tl.latent_dimensions"):
        tl.high_weight_genes(adata, "group")
    chosen(adata, ("a", 0, "+"))
    with pytest.raises(DataError, match=r"run diffvae.tl.gene_weights\(adata, model\) first"):
        tl.high_weight_genes(adata, "group")
    tl.gene_weights(adata, Linear())
    with pytest.raises(ValueError, match="n_dims is 0"):
        tl.high_weight_genes(adata, "group", n_dims=0)
    adata.uns["diffvae"]["latent_dimensions_params"] = {"groupby": "diffvae_cluster"}
    with pytest.raises(DataError, match=r"ranked for 'diffvae_cluster'; run diffvae.tl.latent_dimensions\(adata, 'gr"):
        tl.high_weight_genes(adata, "group")


def test_weights_rank_on_the_scale_of_expression():
    """Times the range of the gene, and omega times the slope that it ignores: worked out by hand."""
    adata = ad.AnnData(np.ones((4, 3), np.float32), var=pd.DataFrame(index=["rare", "common", "wide"]))
    adata.varm[_keys.GENE_WEIGHTS] = np.array([[100.0], [4.0], [2.0]])
    adata.varm[_keys.GENE_JACOBIAN] = np.array([[0.1], [1.0], [0.9]])
    assert scaled_weights(adata, _keys.GENE_WEIGHTS)[:, 0].tolist() == [100, 4, 2]
    adata.var[_keys.UNIT_MIN], adata.var[_keys.UNIT_MAX] = [0.0, 1.0, 0.0], [1.0, 2.0, 5.0]
    adata.var[_keys.GENE_SLOPE] = [0.01, 0.25, 0.25]
    assert scaled_weights(adata, _keys.GENE_WEIGHTS)[:, 0].tolist() == [1, 1, 2.5]
    assert scaled_weights(adata, _keys.GENE_JACOBIAN)[:, 0].tolist() == [0.1, 1.0, 4.5]


def test_top_genes_of_omega_follow_their_dimension():
    adata = dv.datasets.simulate_differentiation(400, 200, rng=0)
    dv.pp.prepare(adata, n_top_genes=None)
    model = dv.model.DiffVAE(n_latent=10).train(adata, max_epochs=10, progress=False)
    dv.tl.embed(adata, model)
    dv.tl.gene_weights(adata, model)
    x, z = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X), adata.obsm["X_diffvae"]
    r = np.abs(np.nan_to_num(np.corrcoef(np.c_[x, z].T)[: adata.n_vars, adata.n_vars :]))
    strong = np.argsort(-z.var(axis=0))[:5]

    def followed(weights):
        top = np.argsort(-np.abs(weights[:, strong]), axis=0)[:10]
        return np.take_along_axis(r[:, strong], top, axis=0).mean()

    raw = np.asarray(adata.varm["diffvae_gene_weights"])
    assert followed(scaled_weights(adata, "diffvae_gene_weights")) > 1.1 * followed(raw)
