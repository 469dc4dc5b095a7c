"""What the paper claims, beside what was measured, and whether it holds by a rule that is stated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from diffvae.benchmark._reproduce_claim import Claim
from diffvae.benchmark._reproduce_claims_cells import of_clusters, of_genes, of_table_2
from diffvae.benchmark._reproduce_claims_states import of_changes, of_links
from diffvae.benchmark._reproduce_subject import Subject


def claims(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Claim]:
    """Return the claims that belong to the set; on one that the paper doesn't have, those that name no number."""
    parts = (of_clusters, of_genes, of_changes, of_table_2, of_links)
    found = [claim for part in parts for claim in part(tables, subject)]
    return found if subject.published else [replace(claim, published="") for claim in found]
