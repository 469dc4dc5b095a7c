"""A result whose names contain markup, for the tests of the report."""

import numpy as np
import pandas as pd

import diffvae as dv

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"quoted\", 'twice' & <b>bold</b>",
    "\u202eright to left\u2067 عصب",
    "new\nline\tand 🧬",
    "x" * 10_000,
)
"""Names that an unescaped page would run or show as something else."""


def hostile(folder):
    """Write a run on cells with such names of cells, genes and types."""
    cells = dv.datasets.simulate_differentiation(150, 60, tree={"stem": ["red", "white"]}, effect=2, rng=0)
    types = dict(zip(("stem", "red", "white"), HOSTILE, strict=False))
    label = pd.Categorical(cells.obs["cell_type"].astype(str).map(types))
    cells.obs = pd.DataFrame({"<i>type": label}, index=cells.obs_names)
    cells.var = cells.var[[]]
    cells.uns.clear()
    genes, names = cells.var_names.to_numpy(object), cells.obs_names.to_numpy(object)
    genes[: len(HOSTILE)], names[: len(HOSTILE)] = HOSTILE, HOSTILE
    cells.var_names, cells.obs_names = genes, names
    markers = {HOSTILE[0]: [HOSTILE[1], HOSTILE[2]], "white": [str(g) for g in np.array(genes)[10:12]]}
    dv.pipeline.run(
        cells, folder, label_key="<i>type", markers=markers, n_latent=4, max_epochs=5, n_clusters=3, k=3,
        source=HOSTILE[0], seed=0, progress=False,
    )  # fmt: skip
    return folder
