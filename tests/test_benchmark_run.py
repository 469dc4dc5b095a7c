"""The comparison of representations: what is computed, and what is refused."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae.benchmark import _tasks
from diffvae.benchmark._clusterers import partitions
from diffvae.benchmark._ica import ICA
from diffvae.benchmark._jobs import Training
from diffvae.benchmark._run import METRICS
from diffvae.benchmark.stability._matching import has_prior

CHEAP = {"metrics": ["ari", "nmi", "overlap", "knn_purity"], "progress": False}
ONE = {"n_latent": 8, "n_trainings": 1, "n_clusterings": 1, "spaces": ["latent"], "clusterers": ["kmeans"]}


class Fixed:
    """A method that knows the types, or guesses, without using expression."""

    def __init__(self, n_latent=8, kind="noise", trained=None):
        self.n_latent, self.kind, self.trained = n_latent, kind, trained

    def get_params(self):
        return {"n_latent": self.n_latent, "kind": self.kind}

    def train(self, adata, *, rng, progress):
        chance = np.random.default_rng(rng)
        z = chance.normal(size=(adata.n_obs, self.n_latent))
        if self.kind == "truth":
            codes = adata.obs["cell_type"].cat.codes.to_numpy()
            z = 0.01 * z + np.eye(self.n_latent)[codes]
        return Fixed(self.n_latent, self.kind, z)

    def get_latent_representation(self):
        return self.trained


class Picky(Fixed):
    """A method whose training fails."""

    def train(self, adata, *, rng, progress):
        raise ValueError("it wants counts; give some.")


@pytest.fixture(scope="module")
def cells():
    cells = dv.datasets.simulate_differentiation(400, 200, rng=3)
    assert cells.obs["cell_type"].value_counts().min() > 15  # so that 15 neighbours can be of one type
    return cells


@pytest.fixture(scope="module")
def few():
    return dv.datasets.simulate_differentiation(120, 100, rng=3)


def compare(cells, methods, **options):
    return dv.benchmark.run({"tree": cells}, methods, label_key="cell_type", **(CHEAP | options))


def test_truth_scores_one_and_noise_about_zero(cells):
    methods = {"truth": Fixed(kind="truth"), "noise": Fixed()}
    found = compare(cells, methods, n_latent=8, n_trainings=1, n_clusterings=1, metrics=METRICS).table
    truth, noise = (found[found["method"] == name] for name in methods)
    given = truth[truth["k_given"] & (truth["space"] == "latent")]
    assert (given[["ari", "nmi", "overlap", "knn_purity"]] > 0.999).all(axis=None)
    # a map with a random start can split a type in two
    assert truth.loc[truth["space"] == "tsne", "ari"].mean() > 0.8
    assert truth["type_alignment"].min() > 0.999
    assert noise["ari"].abs().max() < 0.06
    assert noise["type_alignment"].max() < 0.35
    assert truth["dci_informativeness"].min() > 0.95
    assert noise["dci_informativeness"].max() < 0.2
    # the truth has one dimension per type, the ideal of the scores of disentanglement
    assert truth[["mig", "dci_disentanglement", "dci_completeness"]].min(axis=None) > 0.8
    assert noise["mig"].max() < 0.1
    assert found["reconstruction_r2"].isna().all()  # neither can decode


def test_one_row_per_clustering(few, monkeypatch):
    monkeypatch.setattr(_tasks, "N_ITER", 20)
    found = compare(few, ["PCA", "PCA (unit)"], n_latent=[5, 10], n_trainings=1, n_clusterings=2)
    table = found.table
    # 2 methods x 2 sizes x (4 algorithms x 2 seeds and DBSCAN once on the latent, and 2 times 4 on maps)
    assert len(table) == 2 * 2 * (4 * 2 + 1 + 4 * 2)
    dbscan = table[(table["clusterer"] == "dbscan") & (table["space"] == "latent")]
    assert (dbscan["clustering_seed"] == 0).all()
    assert not dbscan["k_given"].any()
    assert table.loc[table["clusterer"].isin(["kmeans", "gmm"]), "n_clusters"].eq(8).all()
    assert len(found.types) == 8 * len(table)
    one = found.types.merge(table.head(1)[["method", "n_latent", "seed", "clustering_seed", "space", "clusterer"]])
    assert np.isclose((one["n_cells"] * one["recall"]).sum() / one["n_cells"].sum(), table["overlap"].iloc[0])


def test_trainings_differ_and_the_seed_decides(few):
    asked = ONE | {"n_trainings": 2}
    times = ["training_seconds", "clustering_seconds"]
    first, again, other = (compare(few, ["PCA"], **asked, rng=rng).table.drop(columns=times) for rng in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert first["knn_purity"].nunique() == 2
    assert not np.array_equal(first["knn_purity"], other["knn_purity"])


def test_choosing_the_number(few):
    table = compare(few, ["PCA"], **ONE | {"clusterers": ["leiden", "scanpy"], "k_given": [True, False]}).table
    assert table[["clusterer", "k_given"]].values.tolist() == [["leiden", True], ["leiden", False], ["scanpy", False]]
    asked = ONE | {"clusterers": ["kmeans", "leiden", "scanpy"], "k_given": {"leiden": [False]}}
    table = compare(few, ["PCA"], **asked).table
    assert table[["clusterer", "k_given"]].values.tolist() == [["kmeans", True], ["leiden", False], ["scanpy", False]]


def test_cells_without_a_label_are_not_scored(few):
    some = few.copy()
    some.obs.loc[some.obs_names[::3], "cell_type"] = np.nan
    assert compare(some, ["PCA"], **ONE).types["n_cells"].sum() == some.obs["cell_type"].notna().sum()


def test_a_failing_method_is_reported_and_the_others_stay(few):
    with pytest.warns(UserWarning, match="picky on tree, n_latent=8: it wants counts; give some"):
        found = compare(few, {"picky": Picky(), "noise": Fixed()}, **ONE)
    assert set(found.table["method"]) == {"noise"}


def test_held_out_cells_are_decoded_in_their_own_batch(cells):
    adata = dv.pp.prepare(cells, copy=True)
    unit = adata.layers["unit"]
    unit = unit.toarray() if hasattr(unit, "toarray") else np.asarray(unit)

    class OfBatches:
        """A model whose batch of a cell holds all that its z lacks."""

        features = SimpleNamespace(layer="unit")

        def design(self):
            return unit

        def decode(self, z, *, batch):
            return batch

    z = np.zeros((adata.n_obs, 2), np.float32)
    assert _tasks._reconstruction(OfBatches(), adata, z) == pytest.approx(1)


def test_reconstruction_is_on_one_scale(cells):
    asked = ONE | {"n_latent": 20, "metrics": ["ari", "reconstruction_r2"]}
    by = compare(cells, ["PCA", "PCA (unit)"], **asked).table.set_index("method")["reconstruction_r2"]
    assert 0.01 < by["PCA"] < by["PCA (unit)"] < 1  # the second minimises the error on that scale


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": ["tSNE"]}, "'tSNE' is not a method; the methods are 'DiffVAE'"),
        ({"methods": []}, "No method was named"),
        ({"methods": {"odd": 3}}, "'odd' has type int; give a model"),
        ({"label_key": "type"}, r"tree: adata.obs\['type'\] is missing"),
        ({"label_key": {"other": "cell_type"}}, "names no column for 'tree'"),
        ({"clusterers": ["ward"]}, "'ward' is no clusterer"),
        ({"clusterers": []}, "No clusterer"),
        ({"k_given": {"ward": [True]}}, "k_given names 'ward', which is not among the clusterers kmeans"),
        ({"k_given": {"kmeans": True}}, r"k_given\['kmeans'\] is True; it must be a sequence of True and False"),
        ({"k_given": {"kmeans": ()}}, r"k_given\['kmeans'\] is empty; name at least one"),
        ({"k_given": False}, "k_given is False; it must be a sequence"),
        ({"k_given": []}, "k_given is empty"),
        ({"spaces": ["umap"]}, "spaces is 'umap'; it must be 'latent' or 'tsne'"),
        ({"metrics": ["accuracy"]}, "metrics is 'accuracy'; it must be 'ari'"),
        ({"n_trainings": 0}, "n_trainings is 0; it must be a whole number of 1 or more"),
        ({"n_latent": []}, "n_latent is empty"),
        ({"rng": np.random.default_rng(0)}, "it must be a whole number of 0 or more"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(cells, tmp_path, options, sentence):
    asked = dict(methods=["PCA"], label_key="cell_type", out=tmp_path / "out", **CHEAP) | options
    with pytest.raises(ValueError, match=sentence):
        dv.benchmark.run({"tree": cells}, **asked)
    assert not (tmp_path / "out").exists()


def test_prepared_cells_and_foreign_folders_are_refused(cells, tmp_path):
    with pytest.raises(ValueError, match="prepared already"):
        compare(dv.pp.prepare(cells, copy=True), ["PCA"])
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match="holds files that diffvae did not write"):
        compare(cells, ["PCA"], out=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_partitions_share_a_graph_and_follow_the_seed():
    x = np.random.default_rng(0).normal(size=(120, 4))
    found = list(partitions(x, 3, ["kmeans", "dbscan", "leiden"], [True], [0, 1]))
    assert [f"{p.clusterer} {p.clustering_seed}" for p in found] == [
        "kmeans 0", "kmeans 1", "dbscan 0", "leiden 0", "leiden 1",
    ]  # fmt: skip
    assert all(len(p.labels) == 120 for p in found)


def test_independent_components():
    known = dv.benchmark.methods()
    assert known["ICA"].make(5).get_params() == {"n_latent": 5}
    rng = np.random.default_rng(0)
    sources = rng.laplace(size=(400, 3)) * [3, 2, 1]  # heavy tails, which a rotation destroys
    adata = ad.AnnData((sources @ rng.normal(size=(3, 30))).astype(np.float32))
    ica, again = (ICA(3).train(adata, rng=0) for _ in range(2))
    z = ica.get_latent_representation()
    assert np.array_equal(z, again.get_latent_representation())
    found = np.abs(np.corrcoef(z.T, sources.T)[:3, 3:])
    assert found.max(axis=1).min() > 0.98
    assert sorted(found.argmax(axis=1)) == [0, 1, 2]
    assert z.std(axis=0) == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(ica.decode(z), adata.X, atol=1e-3)
    explained = [np.var(adata.X - ica.decode(z * (np.arange(3) != d)), axis=0).sum() for d in range(3)]
    assert explained == sorted(explained, reverse=True)


def test_independent_components_of_too_few_dimensions_are_refused():
    rng = np.random.default_rng(0)
    adata = ad.AnnData((rng.laplace(size=(200, 3)) @ rng.normal(size=(3, 30))).astype(np.float32))
    ICA(3).train(adata)
    with pytest.raises(ValueError, match="n_latent is 5, but only 3 principal components of the training cells vary"):
        ICA(5).train(adata)


def test_which_methods_have_a_prior(few):
    quick = {"n_latent": 4, "hidden": (16, 8)}
    with_prior = [dv.model.DiffVAE(**quick), dv.model.VAE(**quick), Fixed()]
    without = [dv.model.DiffVAE(**quick, noise="none"), dv.model.AutoEncoder(**quick), dv.model.PCA(4), ICA(4)]
    assert all(map(has_prior, with_prior))
    assert not any(map(has_prior, without))
    method = dv.benchmark.Method("quiet", lambda n: without[0], {"max_epochs": 1})
    sets = _tasks.as_cells({"tree": few}, "cell_type", (), None)[0]
    training = _tasks.train(_tasks.prepare(sets, 0, None), sets, method, 4, 0, ())
    assert training.z is not None
    assert not training.prior


def test_leiden_on_the_posterior_only_where_there_is_one(few):
    asked = ONE | {"clusterers": ["leiden", "leiden_posterior"], "n_clusterings": 2, "k_given": [True, False]}
    table = compare(few, {"PCA": dv.model.PCA(), "noise": Fixed()}, **asked).table
    assert table.groupby(["method", "clusterer"]).size().to_dict() == {
        ("PCA", "leiden"): 4, ("PCA", "leiden_posterior"): 4, ("noise", "leiden"): 4,
    }  # fmt: skip
    with pytest.raises(ValueError, match="'leiden_posterior' clusters the latent space only"):
        compare(few, ["PCA"], **ONE | {"clusterers": ["leiden_posterior"], "spaces": ["tsne"]})
    asked = ONE | {"clusterers": ["leiden_posterior"]}
    sentence = "noise on tree, n_latent=8: there is no posterior, which 'leiden_posterior' needs"
    with pytest.warns(UserWarning, match=sentence):
        table = compare(few, {"PCA": dv.model.PCA(), "noise": Fixed()}, **asked).table
    assert table["method"].unique().tolist() == ["PCA"]
    with pytest.warns(UserWarning, match=sentence), pytest.raises(ValueError, match="No method could be clustered"):
        compare(few, {"noise": Fixed()}, **asked)


def test_the_posterior_graph_follows_the_standard_deviations():
    x = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    options = {"n_types": 4, "clusterers": ["leiden", "leiden_posterior"], "k_given": [False], "seeds": [0]}
    plain, certain = partitions(x, sd=np.full_like(x, 1e-6), **options)
    assert np.array_equal(plain.labels, certain.labels)
    plain, uncertain = partitions(x, sd=np.full_like(x, 1.0), **options)
    assert not np.array_equal(plain.labels, uncertain.labels)


class Batched(Fixed):
    """A method that takes batches, and puts each into a corner of its own."""

    def train(self, adata, *, rng, progress, batch_key=None):
        z = np.random.default_rng(rng).normal(size=(adata.n_obs, self.n_latent))
        if batch_key is not None:
            z[:, 0] += 50 * adata.obs[batch_key].astype("category").cat.codes.to_numpy()
        return Batched(self.n_latent, self.kind, z)


@pytest.fixture(scope="module")
def batched():
    missing = {"batch_1": ["Neutrophil"]}
    return dv.datasets.simulate_differentiation(400, 200, n_batches=2, missing=missing, rng=3)


INTEGRATION = ["ilisi", "kbet_acceptance", "batch_silhouette", "batch_r2", "isolated_types"]


def test_batches_reach_the_methods_that_take_them(batched, tmp_path):
    methods = {
        "with": Batched(), "without": dv.benchmark.Method("", lambda n: Batched(n), {"batch_key": None}),
        "never": Fixed(),
    }  # fmt: skip
    asked = ONE | {"metrics": ["ari", "knn_purity", *INTEGRATION], "out": tmp_path}
    found = compare(batched, methods, **asked, batch_key="batch").table.set_index("method")
    assert found.loc["with", "batch_r2"] > 0.9
    assert found.loc["with", "ilisi"] == pytest.approx(0, abs=1e-6)
    assert found.loc["with", "kbet_acceptance"] == 0
    assert found.loc["without", INTEGRATION].tolist() == found.loc["never", INTEGRATION].tolist()
    assert found.loc["never", "ilisi"] > 0.8
    assert found.loc["never", "batch_r2"] < 0.02
    # without a batch key there are no batches: neither columns nor the stored results of trainings with batches
    plain = compare(batched, {"with": Batched()}, **asked).table
    assert not set(INTEGRATION) & set(plain.columns)
    assert plain["knn_purity"].iloc[0] == found.loc["without", "knn_purity"]


def test_scores_of_batches_leave_out_what_cannot_be_scored(batched):
    some = batched.copy()
    some.obs["batch"] = some.obs["batch"].astype(str).astype(object)
    some.obs.iloc[:5, some.obs.columns.get_loc("batch")] = None
    some.obs.iloc[5, some.obs.columns.get_loc("batch")] = "alone"
    some.obs["cell_type"] = some.obs["cell_type"].astype(object)
    some.obs.iloc[6:20, some.obs.columns.get_loc("cell_type")] = None
    found = compare(some, {"noise": Fixed()}, **ONE | {"metrics": INTEGRATION}, batch_key="batch").table.iloc[0]
    sets = _tasks.as_cells({"tree": some}, "cell_type", (), "batch")[0]
    z = _tasks.train(_tasks.prepare(sets, 0, None), sets, dv.benchmark.Method("", Fixed), 8, 0, ()).z
    expected = _tasks._scores(Fixed(), some[20:], _tasks.as_cells({"": some[20:].copy()}, "cell_type", (), "batch")[0],
                              z[20:], 0, INTEGRATION)  # fmt: skip
    assert all(0 <= expected[name] <= 1 for name in INTEGRATION)
    assert found["batch_r2"] < 0.02
    same = {name: _tasks._scores(Fixed(), some, sets, z, 0, INTEGRATION)[name] for name in INTEGRATION}
    assert same == pytest.approx(expected)
    one = batched[batched.obs["batch"] == "batch_1"].copy()
    nothing = compare(one, {"noise": Fixed()}, **ONE | {"metrics": ["ari", *INTEGRATION]}, batch_key="batch").table
    assert nothing[INTEGRATION].isna().all(axis=None)


def test_harmony_mixes_batches_and_keeps_types(batched, few, capfd):
    pytest.importorskip("harmonypy")
    asked = ONE | {"n_latent": 20, "metrics": ["ari", "knn_purity", *INTEGRATION], "batch_key": "batch"}
    found, again = (compare(batched, ["PCA", "Harmony"], **asked).table.set_index("method") for _ in range(2))
    pca, harmony = found.loc["PCA"], found.loc["Harmony"]
    assert harmony["ilisi"] > pca["ilisi"] + 0.2
    assert harmony["kbet_acceptance"] > pca["kbet_acceptance"] + 0.2
    assert harmony["batch_r2"] < pca["batch_r2"] / 2
    assert harmony["knn_purity"] > pca["knn_purity"] - 0.05
    assert harmony[INTEGRATION].equals(again.loc["Harmony", INTEGRATION])
    assert capfd.readouterr() == ("", "")
    assert not has_prior(dv.benchmark.methods()["Harmony"].make(5))
    assert dv.benchmark.methods()["Harmony"].make(5).get_params() == {"n_latent": 5, "sigma": 0.1}
    # it has nothing to correct
    with pytest.raises(ValueError, match=r"Harmony corrects batches; name their column of obs with batch_key"):
        compare(batched, ["PCA", "Harmony"], **ONE)
    with pytest.warns(UserWarning, match="Harmony on tree, n_latent=20: Harmony corrects batches; name their column"):
        compare(few, ["PCA", "Harmony"], **asked | {"metrics": ["ari"]})


def test_harmony_refuses_cells_it_cannot_correct(batched):
    pytest.importorskip("harmonypy")
    adata = dv.pp.prepare(batched, copy=True)
    harmony = dv.benchmark.methods()["Harmony"].make(5)
    with pytest.raises(ValueError, match=r"adata.obs\['donor'\] is missing; Harmony needs the batch of each cell"):
        harmony.train(adata, batch_key="donor")
    adata.obs["one"] = "x"
    with pytest.raises(ValueError, match=r"adata.obs\['one'\] has one value only, 'x'; Harmony needs batches"):
        harmony.train(adata, batch_key="one")
    adata.obs["some"] = [None, *["a", "b"] * 199, "a"]
    with pytest.raises(ValueError, match=r"adata.obs\['some'\] has 1 missing values among 400"):
        harmony.train(adata, batch_key="some")
    with pytest.raises(ValueError, match="sigma is 0; it must be a number above 0"):
        type(harmony)(5, sigma=0)
    with pytest.raises(ValueError, match="There are 14 cells, too few for Harmony's clusters of 30 cells"):
        harmony.train(adata[:14].copy(), batch_key="batch")


def test_harmony_that_is_not_installed_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setattr("diffvae.benchmark._harmony.find_spec", lambda module: None)
    with pytest.raises(
        ImportError, match=r'Harmony needs harmonypy, which is not installed: pip install "diffvae\[harm'
    ):
        dv.benchmark.methods()["Harmony"].make(5)


class Recurring(Fixed):
    """The same four dimensions in each training: as they are, mirrored and exchanged, or turned at random."""

    def train(self, adata, *, rng, progress):
        z = np.random.default_rng(0).normal(size=(adata.n_obs, self.n_latent))
        chance = np.random.default_rng(rng)
        if self.kind == "exchanged":
            z = z[:, chance.permutation(self.n_latent)] * chance.choice([-1, 1], self.n_latent)
        if self.kind == "turned":
            z = z @ np.linalg.qr(chance.normal(size=(self.n_latent, self.n_latent)))[0]
        return Recurring(self.n_latent, self.kind, z)


def test_recurrence_between_trainings(few, tmp_path):
    kinds = ("exchanged", "turned")
    asked = ONE | {"n_latent": 12, "n_trainings": 3, "metrics": ["recurrence", "recurrence_active", "mean_correlation"]}
    methods = {kind: Recurring(kind=kind) for kind in kinds}
    table = compare(few, methods, **asked, out=tmp_path).table.set_index("method")
    assert table.loc["exchanged", "recurrence"].tolist() == [1, 1, 1]
    assert table.loc["turned", "recurrence"].mean() < 0.3
    assert table["recurrence_active"].equals(table["recurrence"])  # all of these vary, and their posterior is unknown
    assert table["mean_correlation"].between(0.02, 0.2).all()
    alone = compare(few, methods, **asked | {"n_trainings": 1}).table
    assert alone["recurrence"].isna().all()
    # a further method and a further training in the same folder
    more = methods | {"PCA": dv.model.PCA()}
    larger = compare(few, more, **asked | {"n_trainings": 4}, out=tmp_path).table.set_index("method")
    assert larger.groupby("method").size().to_dict() == dict.fromkeys(more, 4)
    assert larger.loc["exchanged", "recurrence"].tolist() == [1] * 4
    assert larger["recurrence"].notna().all()
    assert larger.loc["PCA", "recurrence_active"].isna().all()  # no prior says which carry anything


def test_mean_correlation_by_hand():
    z = np.array([[1.0, 1.0, 0.0, 7.0], [-1.0, 1.0, 0.0, 7.0], [1.0, -1.0, 1.0, 7.0], [-1.0, -1.0, 1.0, 7.0]])
    assert _tasks.mean_correlation(z) == pytest.approx(1 / 3)  # r = 0, 0, -1; the constant does not count
    assert np.isnan(_tasks.mean_correlation(z[:, [0, 3]]))


def test_only_dimensions_that_carry_information_are_active():
    random = np.random.default_rng(0)
    signal = random.normal(size=(500, 3))
    noise = [random.normal(size=(500, 5)) * 0.15 for _ in range(2)]  # varies, but is almost all posterior
    sd = np.r_[np.full(3, 0.1), np.full(5, np.sqrt(1 - 0.15**2))]
    both = [Training(np.c_[signal, z], np.tile(sd, (500, 1)), prior=True) for z in noise]
    assert [_tasks.active_dimensions(t) for t in both] == [3, 3]
    for found in _tasks.recurrence(*both, "some cells"):
        assert found["recurrence_active"] == 1
        assert 3 / 8 <= found["recurrence"] < 0.8
    assert np.isnan(_tasks.active_dimensions(Training(signal)))
    failed = _tasks.recurrence(both[0], Training(None, note="failed"), "some cells")
    assert failed == [{"recurrence": None, "recurrence_active": None}] * 2
