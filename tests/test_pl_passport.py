import numpy as np
import pandas as pd
import pytest
from _passport_data import planted, simulated
from _pl_data import assert_legible, name_of
from matplotlib.axes import Axes

import diffvae as dv
from diffvae._errors import DataError


def labels(axis):
    return [t.get_text() for t in axis.get_ticklabels()]


def drawn(**options):
    adata = planted()
    dv.tl.passport(adata, "type", batch_key="batch")
    return dv.pl.passport(adata, 0, **options)


def test_types_and_genes_of_one_dimension():
    left, right = drawn()
    assert isinstance(left, Axes)
    assert sorted(labels(left.yaxis)) == ["a +", "b", "c"]
    assert labels(left.yaxis)[0] == "a +"
    assert labels(right.yaxis) == ["gene0", "gene1"]
    assert [bar.get_width() for bar in right.patches] == [2.0, -1.0]
    assert [t.get_text() for t in right.texts] == ["60%"]
    title = left.figure.get_suptitle()
    said = "Dimension 0: a +; found again in 100%. Batches explain 0.1% of it (by chance 0.4%), types 96%"
    assert title.replace("\n", " ") == said
    assert_legible(left)


def test_quantiles_are_those_of_the_cells():
    adata = planted()
    dv.tl.passport(adata, "type")
    left, _ = dv.pl.passport(adata, 0)
    assert left.figure.get_suptitle() == "Dimension 0: a +; found again in 100%"
    z = adata.obsm["X_diffvae"][adata.obs["type"] == "a", 0]
    box = left.patches[0]
    assert [box.get_x(), box.get_x() + box.get_width()] == pytest.approx(np.quantile(z, [0.25, 0.75]), abs=1e-5)


def test_why_a_dimension_has_no_name_and_a_gene_that_the_cells_contradict():
    adata = planted()
    dv.tl.passport(adata, "type", batch_key="batch")
    left, right = dv.pl.passport(adata, 2)
    assert "no name: unstable, found again in 20%" in left.figure.get_suptitle().replace("\n", " ")
    assert right.patches[0].get_hatch() == "////"
    assert "not confirmed by the cells" in [t.get_text() for t in left.figure.legends[0].get_texts()]


def test_jacobian_and_fewer_genes():
    _, right = drawn(reading="jacobian", n_genes=1)
    assert [bar.get_width() for bar in right.patches] == [1.0, -0.5]
    assert right.get_xlabel() == "mean slope (Jacobian)"


def test_many_long_names_are_legible():
    adata = planted()
    adata.obs["many"] = pd.Categorical([name_of(i % 30) for i in range(adata.n_obs)])
    dv.tl.passport(adata, "many")
    left, _ = dv.pl.passport(adata, 0)
    assert len(labels(left.yaxis)) == 24
    assert left.get_title("left") == "Types (24 of 30: both ends)"
    assert_legible(left)


def test_simulated_passport_is_legible():
    for axes in (dv.pl.passport(simulated(), 0), dv.pl.stability(simulated())):
        assert_legible(axes[0])


def test_what_can_not_be_drawn_is_said():
    adata = planted()
    with pytest.raises(DataError, match=r"run diffvae.tl.passport\(adata\) first"):
        dv.pl.passport(adata, 0)
    dv.tl.passport(adata, "type")
    with pytest.raises(DataError, match="Dimension 3 is dead"):
        dv.pl.passport(adata, 3)
    with pytest.raises(ValueError, match="dimension is 4; it must be from 0 to 3"):
        dv.pl.passport(adata, 4)
    with pytest.raises(ValueError, match="reading is 'omega'"):
        dv.pl.passport(adata, 0, reading="omega")
    adata.obsm["X_diffvae"] = adata.obsm["X_diffvae"] + 1
    with pytest.raises(
        DataError, match=r"has changed since the passport was made; run diffvae.tl.passport\(adata, 'type'"
    ):
        dv.pl.passport(adata, 0)


def found(baseline=True):
    table = pd.DataFrame(
        {"dimension": range(4), "alive": [True, True, True, False], "recurrence": [1.0, 0.5, 0.0, np.nan],
         "similarity": [0.9, 0.6, 0.3, np.nan], "null_similarity": 0.3, "threshold": 0.5}
    )  # fmt: skip
    empty = table.iloc[:0]
    nothing = pd.DataFrame()
    params = {"model": "DiffVAE", "n": 4, "null": "rotation"}
    pca = table if baseline else empty
    return dv.benchmark.Stability(table, nothing, nothing, nothing, nothing, pca, (), params)


def test_stability_beside_its_null_and_pca():
    own, pca = dv.pl.stability(found())
    assert own.get_title("left") == "DiffVAE: 50% found again"
    assert pca.get_title("left") == "PCA, same splits: 50% found again"
    assert sum(len(c.get_offsets()) for c in own.collections[1:]) == 3  # the dead one has no mark
    heights = [c.get_offsets()[0][1] for c in own.collections[1:]]
    assert heights == [0.9, 0.6, 0.3]
    assert own.collections[0].get_segments()[0][:, 1].tolist() == [0.3, 0.5]
    assert own.figure.get_suptitle() == "Dimensions found again in 4 repeated trainings"
    assert_legible(own)


def test_stability_without_a_baseline_and_from_cells():
    assert len(dv.pl.stability(found(baseline=False))) == 1
    axes = dv.pl.stability(simulated())
    assert axes[0].get_title("left").startswith("PCA: ")


def test_stability_that_is_not_there():
    with pytest.raises(DataError, match=r"run diffvae.benchmark.stability\(adata, model\) first"):
        dv.pl.stability(planted(with_stability=False))
    with pytest.raises(ValueError, match="found is a dict"):
        dv.pl.stability({})
    dead = found()
    dead.dimensions["alive"] = dead.baseline["alive"] = False
    with pytest.raises(DataError, match="No dimension is alive"):
        dv.pl.stability(dead)
