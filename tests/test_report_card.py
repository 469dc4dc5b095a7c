"""The summary on top of the page, and the text for a methods section."""

from types import SimpleNamespace

import pytest

from diffvae.report import _card, _methods


def cluster(name, n, confident=True):
    return {"cell_type": name, "n_cells": n, "confident": confident}


def summary(**others):
    clusters = [cluster("Beta cell", 30), cluster("Beta cell", 20), cluster("unassigned", 9, False)]
    return {
        "n_cells": 2000, "n_genes": 1500, "n_genes_kept": 900, "kind": "counts", "markers": "islet-mouse",
        "clusters": clusters, "warnings": [], "versions": {"diffvae": "0.2.0"},
        "parameters": {
            "seed": 3, "n_latent": 50, "preset": "default", "cluster_method": "leiden", "cluster_on": "latent",
            "batch_key": None,
        },
    } | others  # fmt: skip


def pair(target, judged, genes, reached=True, source="EP", earlier=False):
    return {
        "source": source, "target": target, "judged": judged, "median_n_genes": genes, "reached": reached,
        "earlier": earlier,
    }  # fmt: skip


def folder(**parts):
    return SimpleNamespace(summary=parts)


def test_types_are_added_up_over_clusters():
    cells, types = _card.tiles(summary(), None, None)
    assert (cells["title"], cells["lines"]) == ("2,000 cells", ["1,500 genes", "3 clusters"])
    assert (types["title"], types["lines"]) == ("1 cell type named", ["Beta cell: 50", "without a name: 9"])


def test_conversions_are_those_that_are_reached_the_fewest_genes_first():
    pairs = [pair("A", 0.9, 40.0), pair("B", 0.8, 20.0), pair("C", 1, 5.0, False), pair("D", 1, 5.0, earlier=True)]
    tile = _card.tiles(summary(), folder(targets=pairs), None)[2]
    assert tile["title"] == "Conversions of EP"
    assert tile["lines"] == ["to B: 80% of cells; 20 genes suffice", "to A: 90% of cells; 40 genes suffice"]
    several = _card.tiles(summary(), folder(targets=[*pairs, pair("A", 1, None, source="MEP")]), None)[2]
    assert several["lines"][-1] == "MEP → A: 100% of cells"
    none = _card.tiles(summary(), folder(targets=[pair("A", 0.1, None, False)]), None)[2]
    assert none["lines"] == ["More cells convert than by chance in no pair of types."]


@pytest.mark.parametrize("n", [0, 7])
def test_fates_count_the_called_cells(n):
    calls = {"paths": {"uncommitted": 10, **({"biased: Beta": n} if n else {})}}
    tile = _card.tiles(summary(), None, folder(calls=calls, parameters={"source": "EP"}))[2]
    assert tile["title"] == f"{n} of {10 + n} EP committed"
    assert tile["lines"] == (["towards Beta: 7"] if n else ["No cell is called."])


def test_caveats_are_three_at_most_those_of_the_run_first():
    said = _card.caveats(summary(warnings=["Odd.", "Odder."]), [{"section": "changes"}, {"section": "fates"}])
    assert said[0] == "Odd."
    assert len(said) == 3
    doubt = summary(clusters=[cluster("A", 5, False), cluster("B", 5)])
    assert _card.caveats(doubt, [])[0] == "1 of 2 names of clusters is uncertain and marked with ?."


def test_methods_cite_what_they_use_in_the_order_of_the_numbers():
    links = folder(
        parameters={"source": "EP", "earlier": ["Ductal", "Stem"], "target": None, "k": 15},
        graph={"k": 15, "metric": "cosine"}, calls={"paths": {}},
    )  # fmt: skip
    changes = folder(parameters={"source": ["EP"], "method": "mean", "n_random": 200})
    text, literature = _methods.methods(folder(**summary()), changes, links)
    assert len(text) == 4
    for number, entry in enumerate(literature, 1):
        assert any(f"[{number}" in p or f", {number}]" in p for p in text), entry
    assert "900 variable genes" in text[0]
    assert "15 nearest cells (cosine of 50 principal components)" in text[2]
    assert text[3].endswith("Types upstream of them were Ductal and Stem.")
    alone, few = _methods.methods(folder(**summary()), None, None)
    assert len(alone) == 1
    assert len(few) < len(literature)
