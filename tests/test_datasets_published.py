"""The published sets are too large to ship and can't be downloaded here: tiny files of the same form stand in."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import anndata
import numpy as np
import pytest
from scipy import sparse

import diffvae as dv
from diffvae._errors import DataError
from diffvae.datasets import _human_hsc, _pancreas, _zebrafish
from diffvae.datasets._files import Source, download, git_blob_id

FISH_TYPES = ["HSPC", "Neutrophils", "Monocytes", "Erythrocytes", "Thrombocytes", "HSPC"]
FISH_GENES = ["1,lyz,7,protein_coding", "2,,9,protein_coding", "3,ba1l1,3,", "4,lyz,23,protein_coding"]


@pytest.fixture
def fish(tmp_path):
    rng = np.random.default_rng(0)
    values = np.round(rng.gamma(1, 1, (6, 4)) * (rng.random((6, 4)) < 0.6), 4)
    np.savetxt(tmp_path / "GE_mvg.csv", values, delimiter=",", fmt="%g")
    genes = "".join(f'"{i}","ENSDARG0000{gene}"\n' for i, gene in enumerate(FISH_GENES, start=1))
    (tmp_path / "CV_genes.csv").write_text('"","gene"\n' + genes)
    cells = "".join(f'"CD41_A{i}","Tg(cd41:eGFP)",{i / 2},"3","{t}"\n' for i, t in enumerate(FISH_TYPES))
    (tmp_path / "Annotation_File.csv").write_text('"","Tg_Detailed","Pseudotime","State","Type"\n' + cells)
    return tmp_path, values


def test_zebrafish(fish, tmp_path):
    folder, values = fish
    adata = dv.datasets.zebrafish(folder, check=False)
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    np.testing.assert_allclose(adata.X.toarray(), values, rtol=1e-6)
    assert list(adata.var_names) == ["lyz", "ENSDARG00002", "ba1l1", "lyz-1"]
    assert list(adata.var["ensembl"]) == [f"ENSDARG0000{i}" for i in range(1, 5)]
    assert list(adata.var["symbol"]) == ["lyz", "", "ba1l1", "lyz"]
    assert list(adata.var["chromosome"]) == ["7", "9", "3", "23"]
    assert list(adata.obs_names) == [f"CD41_A{i}" for i in range(6)]
    assert list(adata.obs["cell_type"]) == FISH_TYPES
    assert adata.obs["cell_type"].cat.categories.size == 5
    assert list(adata.obs["pseudotime"]) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert "State" in adata.obs
    assert adata.uns["diffvae_dataset"]["progenitors"] == "HSPC"
    adata.write_h5ad(tmp_path / "fish.h5ad")
    assert anndata.read_h5ad(tmp_path / "fish.h5ad").shape == (6, 4)


def test_zebrafish_refuses_other_files(fish, monkeypatch):
    folder, _ = fish
    with pytest.raises(DataError, match=r"not the published GE_mvg.csv.*170d909b.*check=False"):
        dv.datasets.zebrafish(folder)
    files = {name: git_blob_id((folder / name).read_bytes()) for name in _zebrafish.SOURCES}
    monkeypatch.setattr(
        _zebrafish, "SOURCES", {name: Source("https://x", git_blob=blob) for name, blob in files.items()}
    )
    with pytest.raises(DataError, match="6 cells x 4 genes where the paper has 1422 x 1845"):
        dv.datasets.zebrafish(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("GE_mvg.csv", "1,2\n3,4\n", r"don't match: GE_mvg.csv is 2 x 2.*6 cells.*4 genes"),
        ("GE_mvg.csv", "a,b\n1,2\n", "not a table of numbers"),
        ("GE_mvg.csv", "1,2,3,4\n" * 5 + "1,,3,4\n", "missing or infinite"),
        ("CV_genes.csv", '"","gene"\n"1","lyz"\n', "'lyz' should read"),
        ("CV_genes.csv", '"","name"\n"1","lyz"\n', "no column 'gene'; it has name"),
        ("Annotation_File.csv", '"","Kind"\n"a","b"\n', "no column 'Type'; it has Kind"),
        ("Annotation_File.csv", "", "not a table with row names"),
    ],
)
def test_zebrafish_says_what_is_wrong(fish, name, content, message):
    folder, _ = fish
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        dv.datasets.zebrafish(folder, check=False)


def test_missing_files(fish):
    folder, _ = fish
    (folder / "CV_genes.csv").unlink()
    with pytest.raises(DataError, match=r"lacks CV_genes.csv; get it from https://raw"):
        dv.datasets.zebrafish(folder)
    with pytest.raises(DataError, match="is not a folder"):
        dv.datasets.zebrafish(folder / "GE_mvg.csv")
    with pytest.raises(DataError, match="is not a folder"):
        dv.datasets.human_hsc(folder / "nothing")


ISLETS = {
    "INS__chr11": [5.02, 0, 9.1, 1],
    "GCG__chr2": [0, 7.03, 1, 1],
    "MTRNR2__chr5": [1, 1, 1, 0],
    "INS__chrX": [1, 0, 2, 0],
    "NONE__chr1": [0, 0, 0, 0],
    "ERCC-00002__ERCC-00002": [9, 9, 9, 9],
}


def islet_file(path, cells=("D28-1_1", "D29-3_96", "D31-8_2", "D28-2_5"), rows=ISLETS):
    # As R writes it: no name above the row names, so the header has a field less than the rows.
    lines = ["\t".join(cells)] + ["\t".join([gene, *map(str, row)]) for gene, row in rows.items()]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    return path


@pytest.fixture
def islets(tmp_path):
    return islet_file(tmp_path / next(iter(_pancreas.SOURCES)))


def test_pancreas(islets):
    adata = dv.datasets.pancreas(islets.parent, min_genes=2, check=False)
    assert list(adata.obs_names) == ["D28-1_1", "D31-8_2"]  # the others have two genes, ERCC not counted
    other = dv.datasets.pancreas(islets, min_genes=1, check=False)
    assert list(other.obs["donor"]) == ["D28", "D29", "D31", "D28"]
    assert list(other.obs["plate"]) == ["1", "3", "8", "2"]
    assert list(other.var_names) == ["INS", "GCG", "MTRNR2", "INS-1"]
    assert list(other.var["chromosome"]) == ["chr11", "chr2", "chr5", "chrX"]
    assert "cell_type" not in other.obs
    np.testing.assert_allclose(other.layers["counts"].toarray()[1], [0, 7.03, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(np.expm1(other.X.toarray()).sum(1), 1e4, rtol=1e-4)
    assert other.X.toarray()[1, 1] == pytest.approx(np.log1p(1e4 * 7.03 / 8.03), rel=1e-5)
    assert sparse.isspmatrix_csr(other.X)
    assert list(other.uns) == ["diffvae_dataset"]


def test_pancreas_takes_unpacked_files_too(islets):
    unpacked = islets.with_suffix("")
    unpacked.write_bytes(gzip.decompress(islets.read_bytes()))
    islets.unlink()
    assert dv.datasets.pancreas(islets.parent, min_genes=1, check=False).n_obs == 4


@pytest.mark.parametrize("table", ["x\nD28.1_1\talpha\nD31.8_2\tbeta\n", "cell\ttype\nD28-1_1\talpha\nD31-8_2\tbeta\n"])
def test_pancreas_labels(islets, table):
    file = islets.parent / "cell_type_annotation_Cels2016.csv"
    file.write_text(table)
    found = dv.datasets.pancreas(islets.parent, min_genes=1, check=False)
    types = found.obs["cell_type"].astype(object)
    assert types.where(types.notna(), None).tolist() == ["alpha", None, "beta", None]
    moved = file.rename(islets.parent / "mine.tsv")
    assert "cell_type" in dv.datasets.pancreas(islets, labels=moved, min_genes=1, check=False).obs


def test_pancreas_refuses(islets, tmp_path):
    with pytest.raises(DataError, match="4 cells x 4 genes where the paper has 2285 x 4000"):
        dv.datasets.pancreas(islets, min_genes=1)
    with pytest.raises(DataError, match="No cell has more than 2500 detected genes, the best 4"):
        dv.datasets.pancreas(islets)
    with pytest.raises(DataError, match="labels is"):
        dv.datasets.pancreas(islets, labels=tmp_path / "nothing.csv")
    (tmp_path / "other.tsv").write_text("x\ncell1\talpha\n")
    with pytest.raises(DataError, match="names none of the cells"):
        dv.datasets.pancreas(islets, labels=tmp_path / "other.tsv", min_genes=1)
    with pytest.raises(DataError, match="'cell_1'; names should read like 'D28-1_1'"):
        dv.datasets.pancreas(islet_file(tmp_path / "a.csv.gz", cells=("D28-1_1", "cell_1", "c", "d")))
    with pytest.raises(DataError, match="is not numeric: it holds 'x'"):
        dv.datasets.pancreas(islet_file(tmp_path / "b.csv.gz", rows={"A__chr1": ["x", 1, 2, 3]}))
    with pytest.raises(DataError, match="missing, infinite or negative"):
        dv.datasets.pancreas(islet_file(tmp_path / "c.csv.gz", rows={"A__chr1": [-1, 1, 2, 3]}))
    (tmp_path / "d.csv.gz").write_text("not gzip")
    with pytest.raises(DataError, match="can't be read; it may be damaged"):
        dv.datasets.pancreas(tmp_path / "d.csv.gz")


def stem_cell_file(folder, n_cells=8, n_genes=30):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 20, size=(n_genes, 1)), size=(n_genes, n_cells)) + 1
    names = [f"GENE{i} (ENSG{i:011d})" for i in range(n_genes)]
    names[:5] = ["KEL (ENSG00000197993)", "? (ENSG00000000001)", "KEL (ENSG00000000002)", "ERCC-00002", "__no_feature"]
    lines = [",".join(['""', *(f'"X{i}"' for i in range(n_cells))])]
    lines += [",".join([f'"{name}"', *map(str, row)]) for name, row in zip(names, counts, strict=True)]
    with gzip.open(folder / next(iter(_human_hsc.SOURCES)), "wt") as file:
        file.write("\n".join(lines) + "\n")
    return counts


def test_human_hsc(tmp_path):
    counts = stem_cell_file(tmp_path)
    adata = dv.datasets.human_hsc(tmp_path, n_top_genes=None, check=False)
    assert adata.shape == (8, 28)
    assert list(adata.var_names[:4]) == ["KEL", "ENSG00000000001", "KEL-1", "GENE5"]
    assert adata.var["ensembl"].iloc[2] == "ENSG00000000002"
    assert list(adata.obs["individual"].unique()) == ["I1"]
    assert adata.obs_names[0] == "X0"
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), np.delete(counts, [3, 4], axis=0).T)
    some = dv.datasets.human_hsc(tmp_path, n_top_genes=10, check=False)
    assert some.shape == (8, 10)
    assert set(some.var_names) < set(adata.var_names)
    np.testing.assert_allclose(some.X.toarray(), adata[:, some.var_names].X.toarray())
    with pytest.raises(DataError, match="8 cells x 10 genes where the paper has 1034 x 10"):
        dv.datasets.human_hsc(tmp_path, n_top_genes=10)


def test_git_blob_id_is_gits():
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and its address, on this machine alone."""
    folder = tmp_path / "public"
    folder.mkdir()
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_download_is_cached_and_checked(served, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # pooch waits between tries
    folder, address = served
    (folder / "a.csv").write_text("1,2\n")
    good = hashlib.sha256(b"1,2\n").hexdigest()
    file = download("set", "a.csv", Source(f"{address}/a.csv", known_hash=f"sha256:{good}"))
    assert file.read_text() == "1,2\n"
    assert (tmp_path / "cache") in file.parents
    (folder / "a.csv").unlink()
    assert download("set", "a.csv", Source(f"{address}/a.csv")) == file
    with pytest.raises(DataError, match=r"b.csv could not be downloaded: .*404.* give its folder as path="):
        download("set", "b.csv", Source(f"{address}/b.csv"))
    (folder / "c.csv").write_text("other\n")
    with pytest.raises(DataError, match=r"could not be downloaded: .*hash"):
        download("set", "c.csv", Source(f"{address}/c.csv", known_hash=f"sha256:{good}"))


def test_reader_downloads_what_it_has_no_path_for(served, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVAE_CACHE", str(tmp_path / "cache"))
    folder, address = served
    stem_cell_file(folder)
    (name,) = _human_hsc.SOURCES
    monkeypatch.setattr(_human_hsc, "SOURCES", {name: Source(f"{address}/{name}")})
    assert dv.datasets.human_hsc(check=False).n_obs == 8
