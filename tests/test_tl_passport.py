import anndata as ad
import numpy as np
import pandas as pd
import pytest
from _passport_data import planted, simulated
from scipy import sparse, stats

from diffvae import tl
from diffvae.pp import DataError
from diffvae.tl._passport import batches_of_dimensions, correlations, types_of_sides


def row(table, dimension):
    return table.set_index("dimension").loc[dimension]


def test_each_planted_dimension_gets_what_it_deserves():
    found = tl.passport(planted(), "type", batch_key="batch")
    assert found.table["name"].tolist() == ["a +", "", "", ""]
    assert found.table["remark"].tolist() == [
        "",
        "follows the batch (x) more than the types",
        "unstable, found again in 20% of the trainings",
        "dead",
    ]
    assert found.table["stable"].tolist() == [True, True, False, False]
    first, second = row(found.table, 0), row(found.table, 1)
    assert (first["up_weights"], first["down_jacobian"]) == ("gene0", "gene1")
    assert first["types_high"].startswith("a (")
    assert first["batch_eta2"] < 0.05 < 0.9 < first["type_eta2"]
    assert second["batch_eta2"] > 0.9 > 0.05 > second["type_eta2"]
    assert second["batch_auc"] == pytest.approx(0)
    assert second["batch_q"] < 1e-10
    without = tl.passport(planted(), "type")
    assert "batch_q" not in without.table
    assert without.batches.empty
    assert row(without.table, 1)["remark"] == "no type is enriched on either side"
    assert found.of(0)["+"].to_dict() == {
        "types": first["types_high"], "genes (weights)": "gene0", "genes (jacobian)": "gene0",
    }  # fmt: skip


def test_both_signs():
    adata = planted()
    z = adata.obsm["X_diffvae"]
    z[adata.obs["type"] == "b", 0] -= 4
    adata.obsm["X_diffvae"] = z
    found = tl.passport(adata, "type")
    sides = found.types[found.types["dimension"] == 0].set_index("side")["type"]
    assert sides.to_dict() == {"+": "a", "-": "b"}
    assert found.table["name"].tolist() == [""] * 4  # what is known of recurrence is about the latent of before


def test_nothing_is_named_before_it_is_known_to_recur():
    found = tl.passport(planted(with_stability=False), "type")
    assert (found.table["name"] == "").all()
    assert found.table["alive"].tolist() == [True, True, True, False]
    assert found.table["remark"].tolist() == ["not known whether it recurs"] * 3 + ["dead"]
    assert found.table["recurrence"].isna().all()


@pytest.mark.parametrize(("least", "name"), [(0.8, ""), (0.6, "a +")])
def test_how_often_is_stable(least, name):
    adata = planted(recurrence=(0.6, 1.0, 1.0, np.nan))
    assert tl.passport(adata, "type", min_recurrence=least).table["name"].iloc[0] == name


def test_odds_and_q_of_a_side_by_hand():
    z = np.zeros((20, 2))
    z[:4, 0], z[4:6, 0] = 3, -3
    z[:, 1] = np.tile([1, -1], 10)
    labels = pd.Categorical(["a"] * 4 + ["b"] * 16)
    table = types_of_sides(z, labels, 1.0)
    a = table.query("dimension == 0 and side == '+' and type == 'a'").iloc[0]
    assert (a["n_cells"], a["n_type"], a["share"], a["expected_share"]) == (4, 4, 1, 0.2)
    assert a["odds_ratio"] == pytest.approx((4.5 / 0.5) / (0.5 / 16.5))
    assert a["p_value"] == pytest.approx(stats.hypergeom.sf(3, 20, 4, 4))
    assert len(table) == 2 * 2 * 2
    assert table["q_value"].min() == pytest.approx(a["p_value"] * 8)


def test_a_small_type_that_lies_there_altogether_comes_before_a_big_one():
    z = np.zeros((400, 1))
    types = np.array(["small"] * 10 + ["big"] * 150 + ["rest"] * 240)
    z[:10], z[10:70], z[160:170] = 3, 3, 3
    table = types_of_sides(z, pd.Categorical(types), 1.0).query("side == '+' and q_value < 0.05")
    assert table["type"].tolist() == ["small", "big"]
    assert table["p_value"].is_monotonic_decreasing


def test_genes_say_whether_the_cells_agree():
    genes = tl.passport(planted(), "type").genes
    assert (genes["dimension"] < 3).all()
    weights = genes[genes["reading"] == "weights"].set_index("gene")
    assert weights["direction"].to_dict() == {"gene0": "up", "gene1": "down", "gene2": "up", "gene3": "up"}
    assert weights["confirmed"].to_dict() == {"gene0": True, "gene1": True, "gene2": True, "gene3": False}
    assert weights.loc["gene0", "recurrence"] == 0.6
    assert weights.loc["gene1":, "recurrence"].isna().all()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_correlations_are_pearsons(kind):
    rng = np.random.default_rng(0)
    x, z = rng.poisson(1.0, (50, 4)).astype(np.float32), rng.normal(size=(50, 3))
    x[:, 3] = 2
    found = correlations(kind(x), z)
    for gene in range(3):
        for d in range(3):
            assert found[gene, d] == pytest.approx(np.corrcoef(x[:, gene], z[:, d])[0, 1], abs=1e-6)
    assert (found[3] == 0).all()


def test_batches_of_different_composition_are_not_blamed_for_their_types():
    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b"], 200)
    batch = np.where(rng.random(400) < np.where(types == "a", 0.9, 0.1), "x", "y")
    z = np.c_[3.0 * (types == "a") + rng.normal(0, 1, 400), rng.normal(0, 1, 400) + 1.0 * (batch == "x")]
    table = batches_of_dimensions(z, np.ones(2, bool), pd.Categorical(batch), pd.Categorical(types))
    assert abs(table.loc[0, "auc"] - 0.5) > 0.3  # by itself the batch looks guilty
    assert table.loc[0, "batch_eta2"] < 0.03
    assert table.loc[0, "q_value"] > 0.05
    assert table.loc[1, "batch_eta2"] > table.loc[1, "type_eta2"]
    # the F-test of nested linear models, by statistics of two groups within types
    frame = pd.DataFrame({"z": z[:, 1], "t": types, "b": batch})
    within = frame["z"] - frame.groupby("t")["z"].transform("mean")
    indicator = (frame["b"] == "x").astype(float)
    indicator -= indicator.groupby(frame["t"]).transform("mean")
    r = np.corrcoef(within, indicator)[0, 1]
    assert table.loc[1, "batch_eta2"] == pytest.approx(r**2)
    f = r**2 / (1 - r**2) * (400 - 3)
    assert table.loc[1, "p_value"] == pytest.approx(stats.f.sf(f, 1, 397))


def test_batches_that_are_the_types_explain_nothing_more():
    types = pd.Categorical(np.repeat(["a", "b"], 20))
    z = np.random.default_rng(0).normal(size=(40, 1))
    table = batches_of_dimensions(z, np.ones(1, bool), types, types)
    assert table.loc[0, ["batch_eta2", "type_eta2", "q_value"]].tolist() == pytest.approx([0, 0, 1])


def test_drivers_of_the_planted_types_are_on_the_right_side():
    adata = simulated()
    stored = adata.uns["diffvae"]["passport"]
    named = stored["table"][stored["table"]["name"] != ""]
    assert {part.split()[0] for name in named["name"] for part in name.split(", ")} >= {"red", "white"}
    drivers = adata.uns["diffvae_truth"]["drivers"]
    for branch in ("red", "white"):
        own = drivers[drivers["branch"] == branch].set_index("gene")["direction"]
        side = next(p.split()[1] for name in named["name"] for p in name.split(", ") if p.startswith(branch))
        dimension = named.loc[named["name"].str.contains(f"{branch} \\{side}"), "dimension"].iloc[0]
        up = "up" if side == "+" else "down"  # the direction of the genes that are higher on that side
        genes = stored["genes"]
        genes = genes[(genes["dimension"] == dimension) & (genes["reading"] == "weights") & (genes["direction"] == up)]
        share = own.reindex(genes["gene"]).eq("up").mean()
        assert share > 3 * (own == "up").sum() / adata.n_vars


def test_what_is_written(tmp_path):
    adata = planted()
    found = tl.passport(adata, "type", batch_key="batch", copy=True)
    assert "passport" not in adata.uns["diffvae"]
    tl.passport(adata, "type", batch_key="batch")
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["diffvae"]["passport"]
    assert back["table"]["name"].astype(str).tolist() == found.table["name"].tolist()
    assert back["params"]["batch_key"] == "batch"
    adata.obs["diffvae_cluster"] = pd.Categorical(adata.obs["type"])
    assert tl.passport(adata).table["name"].iloc[0] == "cluster a +"
    adata.write_h5ad(tmp_path / "b.h5ad")  # also without batches


def broken(change) -> ad.AnnData:
    adata = planted()
    change(adata)
    return adata


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.uns["diffvae"].pop("gene_weights"), r"run diffvae.tl.gene_weights\(adata, model\) first"),
        (lambda a: a.varm.pop("diffvae_gene_jacobian"), r"varm\['diffvae_gene_jacobian'\] is missing"),
        (lambda a: a.varm.update(diffvae_gene_weights=np.ones((6, 2))), "has 2 dimensions, adata.obsm"),
        (lambda a: a.obs.__setitem__("type", "a"), "has only one group"),
        (lambda a: a.obs.__setitem__("batch", "x"), "has only one batch; leave batch_key out"),
    ],
)
def test_what_is_missing_is_said(change, sentence):
    with pytest.raises(DataError, match=sentence):
        tl.passport(broken(change), "type", batch_key="batch")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"n_genes": 0}, "n_genes is 0"), ({"max_q": 0}, "max_q is 0"), ({"min_recurrence": 2}, "min_recurrence is 2")],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tl.passport(planted(), "type", **options)
    with pytest.raises(ValueError, match="dimension is 9; there are 0 to 3"):
        tl.passport(planted(), "type").of(9)


def test_chance_is_what_permuted_batches_explain():
    z, types = np.random.default_rng(0).normal(size=(60, 4)), pd.Categorical(np.repeat(["a", "b", "c"], 20))
    alive, rng = np.ones(4, bool), np.random.default_rng(1)
    batches = [pd.Categorical(rng.permutation(np.arange(60) % 3).astype(str)) for _ in range(100)]
    tables = pd.concat([batches_of_dimensions(z, alive, batch, types) for batch in batches])
    assert tables["batch_eta2"].mean() == pytest.approx(tables["null_eta2"].mean(), rel=0.15)


def test_the_batches_that_the_cells_were_prepared_with_are_used():
    adata = planted()
    adata.uns["diffvae"]["prepare"] = {"batch_key": "batch"}
    found = tl.passport(adata, "type")
    assert "batch_q" in found.table
    assert adata.uns["diffvae"]["passport"]["params"]["batch_key"] == "batch"
    one = adata[adata.obs["batch"] == "x"].copy()
    assert "batch_q" not in tl.passport(one, "type").table
