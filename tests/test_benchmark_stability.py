import anndata as ad
import numpy as np
import pandas as pd
import pytest
from _model_data import QUICK, prepared, trained
from _passport_data import simulated

import diffvae as dv
from diffvae import benchmark, tl
from diffvae._errors import DataError
from diffvae.benchmark.stability._clusters import cluster_table, pairwise
from diffvae.benchmark.stability._matching import Training
from diffvae.benchmark.stability._stability import verdict
from diffvae.model import PCA

TABLES = ("dimensions", "genes", "clusters", "labels", "matches", "baseline")
QUIET = {"cluster_method": None, "progress": False}


class Shuffled(PCA):
    """PCA whose components come in an order, and with signs, that the seed decides."""

    def train(self, adata, *, rng=0, **options):
        super().train(adata, rng=0, **options)
        draw = np.random.default_rng(rng)
        self._components = (self._components * draw.choice([-1, 1], self.n_latent))[:, draw.permutation(self.n_latent)]
        return self


class Killed(PCA):
    """PCA whose second component is switched off."""

    def train(self, adata, **options):
        super().train(adata, **options)
        self._components[:, 1] = 0
        return self


def embedded(model):
    adata = prepared()
    tl.embed(adata, model)
    return adata


def test_copies_in_another_order_and_mirrored_recur():
    adata = prepared()
    model = Shuffled(n_latent=4).train(adata, rng=3)
    found = benchmark.stability(adata, model, n=3, resample=False, **QUIET)
    assert (found.dimensions["recurrence"] == 1).all()
    assert found.matches["similarity"].to_numpy() == pytest.approx(1)
    assert sorted(found.matches.query("training == 1")["match"]) == [0, 1, 2, 3]
    assert (found.genes[["recurrence", "same_direction"]] == 1).all(axis=None)
    assert found.baseline.empty
    assert "100% on average recur" in found.sentences[0]


def test_a_killed_dimension_is_dead():
    adata = prepared()
    found = benchmark.stability(adata, Killed(n_latent=4).train(adata), n=2, resample=False, **QUIET)
    assert found.dimensions["alive"].tolist() == [True, False, True, True]
    assert found.dimensions["recurrence"].isna().tolist() == [False, True, False, False]
    assert 1 not in set(found.matches["dimension"]) | set(found.matches["match"]) | set(found.genes["dimension"])
    assert "1 dead" in found.sentences[0]


def test_further_trainings_of_a_network_and_what_is_written(tmp_path):
    model = trained("AutoEncoder")
    adata = embedded(model)
    options = {"n": 2, "training": QUICK, "cluster_method": "kmeans", "n_clusters": 3, "n_genes": 5}
    other = benchmark.stability(adata, model, copy=True, rng=1, **options)
    assert other.params["model"] == "AutoEncoder"
    assert "stability" not in adata.uns["diffvae"]
    found = benchmark.stability(adata, model, **options)
    assert len(found.dimensions) == len(found.baseline) == 4
    assert set(found.labels["source"]) == {"trainings", "clusterings", "PCA"}
    assert (found.labels.groupby("source").size() == 3).all()
    assert len(found.clusters) == 3
    assert (found.matches.groupby("training").size() == found.dimensions["alive"].sum()).all()
    # not one similarity is the same: the trainings differ
    assert found.matches["similarity"].nunique() == len(found.matches)
    again = benchmark.stability(adata, model, **options)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name))
    assert not np.allclose(other.matches["similarity"], found.matches["similarity"])

    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    stored = back.uns["diffvae"]["stability"]
    assert set(TABLES) < set(stored)
    np.testing.assert_allclose(stored["dimensions"]["recurrence"], found.dimensions["recurrence"])
    assert list(stored["sentences"]) == list(found.sentences)
    assert "recurrence" in tl.latent_dimensions(back, "diffvae_split")


@pytest.mark.parametrize("by", ["jacobian", "latent"])
def test_other_readings_match_pca_as_well(by):
    adata = prepared()
    found = benchmark.stability(adata, PCA(3).train(adata), n=2, by=by, null="permutation", **QUIET)
    assert found.dimensions["recurrence"].tolist()[:2] == [1, 1]  # there are three programmes
    assert found.params["by"] == by
    assert "shuffled" in found.sentences[0]


def test_an_untrained_model_is_trained_first():
    adata = prepared()
    model = PCA(3)
    benchmark.stability(adata, model, n=1, **QUIET)
    assert model.is_trained
    tl.embed(adata, model)
    assert "recurrence" in tl.latent_dimensions(adata, "diffvae_split")  # the mark fits what comes later


def test_as_many_epochs_as_the_reference_had(monkeypatch):
    model, seen = trained("VAE"), []
    train = dv.model.VAE.train
    monkeypatch.setattr(dv.model.VAE, "train", lambda self, adata, **k: seen.append(k) or train(self, adata, **k))
    benchmark.stability(prepared(), model, n=1, baseline=False, **QUIET)
    assert (seen[-1]["max_epochs"], seen[-1]["layer"]) == (len(model.history), "unit")
    assert seen[-1]["validation_size"] == pytest.approx(0.2)


def test_latent_dimensions_shows_recurrence_as_long_as_the_latent_is_the_same():
    adata = prepared()
    model = PCA(4).train(adata)
    tl.embed(adata, model)
    assert "recurrence" not in tl.latent_dimensions(adata, "diffvae_split")
    found = benchmark.stability(adata, model, n=2, **QUIET)
    table = tl.latent_dimensions(adata, "diffvae_split")
    expected = found.dimensions.set_index("dimension")["recurrence"]
    assert (table["recurrence"] == expected[table["dimension"]].to_numpy()).all()
    adata.obsm["X_diffvae"] = adata.obsm["X_diffvae"] + np.float32(0.01)
    assert "recurrence" not in tl.latent_dimensions(adata, "diffvae_split")


def test_the_clusters_that_the_cells_have_are_the_reference():
    model = PCA(4).train(prepared())
    adata = embedded(model)
    tl.cluster(adata, "kmeans", n_clusters=4, rng=5)
    found = benchmark.stability(adata, model, n=2, cluster_method="kmeans", baseline=False, progress=False)
    sizes = adata.obs["diffvae_cluster"].value_counts(sort=False)
    assert found.clusters["cluster"].tolist() == list(sizes.index)
    assert found.clusters["n_cells"].tolist() == sizes.tolist()


def test_jaccard_by_hand():
    own = pd.Categorical(list("aaaabbbb"))
    other = pd.Categorical(list("xxxyyyyy"))  # a: 3 of 4; b: 4 of 5
    table = cluster_table(own, [other, own], np.random.default_rng(0))
    assert table["jaccard"].tolist() == [(3 / 4 + 1) / 2, (4 / 5 + 1) / 2]
    assert (table["null_jaccard"] < 0.6).all()
    assert pairwise("trainings", [own, own, other])["ari"].iloc[0] == 1


def test_cells_that_dbscan_leaves_out_are_no_cluster():
    own = pd.Categorical(["0"] * 4 + ["noise"] * 4)
    other = pd.Categorical(["noise"] * 4 + ["0"] * 4)
    table = cluster_table(own, [other], np.random.default_rng(0))
    assert table["cluster"].tolist() == ["0"]
    assert table["jaccard"].tolist() == [0]


def test_dbscan_runs():
    adata = prepared()
    found = benchmark.stability(adata, PCA(3).train(adata), n=1, cluster_method="dbscan", progress=False)
    assert "noise" not in set(found.clusters["cluster"])


def test_simulated_types_come_back_along_the_components():
    stored = simulated().uns["diffvae"]["stability"]
    assert (stored["dimensions"]["recurrence"].iloc[:2] == 1).all()
    assert stored["labels"].query("source == 'trainings'")["ari"].mean() > 0.8


def frame(recurrence, similarity=0.8, explained=0.9):
    return pd.DataFrame(
        {"dimension": range(4), "alive": True, "recurrence": recurrence, "similarity": similarity,
         "null_similarity": 0.5, "threshold": 0.6, "explained": explained}
    )  # fmt: skip


def test_the_verdict_names_what_does_as_well():
    genes = pd.DataFrame({"recurrence": [0.5], "null_recurrence": [0.5]})
    clusters = pd.DataFrame({"cluster": ["0", "1"], "jaccard": [0.9, 0.3]})
    labels = pd.DataFrame({"source": ["trainings", "clusterings", "PCA"], "ari": [0.6, 0.8, 0.7]})
    about = {"n": 5, "by": "weights", "null": "rotation", "model": "DiffVAE"}
    said = " ".join(verdict(frame(0.05), genes, clusters, labels, frame(0.5), **about))
    assert "no more often than by chance" in said
    assert "50% of the components of PCA recur. PCA does at least as well as DiffVAE." in said
    assert "their content recurs, along other axes" in said
    assert "PCA's clusters are at least as stable" in said
    assert "(Jaccard index below 0.5): 1." in said
    good = " ".join(verdict(frame(1.0), genes, clusters.iloc[:1], labels.iloc[:2], frame(0.5), **about))
    assert "at least as" not in good
    assert "against 5% by chance" in good
    assert "4 recur in all 5 trainings" in good


def test_all_dimensions_dead():
    adata = prepared()
    dead = Killed(n_latent=2).train(adata)
    dead._components[:] = 0
    reference = Training(np.zeros((5, 2)), np.zeros(2, bool), np.zeros((2, 3)), np.zeros((2, 3)))
    assert not reference.alive.any()
    found = benchmark.stability(adata, dead, n=1, resample=False, **QUIET)
    assert not found.dimensions["alive"].any()
    assert found.sentences == ("All 2 dimensions of Killed are dead, so none can recur.",)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "n is 0; it must be a whole number of 1 or more"),
        ({"by": "genes"}, "by is 'genes'"),
        ({"null": "none"}, "null is 'none'"),
        ({"cluster_method": "hdbscan"}, "method is 'hdbscan'"),
    ],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        benchmark.stability(prepared(), trained("PCA"), **{"progress": False} | options)


def test_what_is_no_model_of_dimensions_and_a_model_of_other_cells_are_refused():
    with pytest.raises(ValueError, match="model is a CellStateClassifier; give one whose dimensions act on genes"):
        benchmark.stability(prepared(), dv.model.CellStateClassifier())
    with pytest.raises(DataError, match="trained on other cells"):
        benchmark.stability(prepared(1), trained("PCA"), **QUIET)
