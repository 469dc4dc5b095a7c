"""Names in a matrix that are no genes: counters of reads, quality control of cells, annotation of genes; dates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from diffvae._core.io.orientation import is_known_gene


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COUNTERS = _words(
    "no_feature nofeature ambiguous too_low_aqual not_aligned alignment_not_unique "
    "n_unmapped n_multimapping n_nofeature n_ambiguous n_chimeric unmapped no_match bad_struct"
)
"""Counters of htseq-count and their names in scripts that strip the underscores, of STAR and of CITE-seq-Count."""
_COUNTER = re.compile(r"x?__\w.*|unassigned_\w+")
"""``__no_feature`` and its like (``X__no_feature`` after R's make.names); featureCounts' summary."""

_QUALITY = _words(
    "ngene ngenes numi numis nreads ncounts ncount nfeature nfeatures n_gene n_genes n_counts n_count n_umi n_umis "
    "n_reads n_feature n_features n_genes_by_counts total_counts total_count total_umi total_umis total_reads "
    "total_features detected library_size libsize lib_size size_factor size_factors sizefactor sizefactors "
    "gene_count gene_counts umi_count umi_counts read_count read_counts genes_detected "
    "doublet_score doublet_scores doubletscore scrublet_score predicted_doublet predicted_doublets "
    "doublet_prediction scdblfinder_score scdblfinder_class "
    "s_score g2m_score g1_score phase cell_cycle_phase cc_difference orig_ident seurat_clusters seurat_cluster "
    "leiden louvain cluster clusters cluster_id cluster_label celltype cell_type cell_types celltypes cell_label "
    "cell_ontology_class cell_ontology_id cell_id cellid barcode barcodes batch batch_id sample sample_id sampleid "
    "donor donor_id patient patient_id condition tissue timepoint time_point pseudotime dpt_pseudotime "
    "velocity_pseudotime latent_time initial_size initial_size_unspliced initial_size_spliced "
    "mito_frac mt_frac ribo_frac frac_mito frac_mt mito_percent mt_percent in_tissue array_row array_col "
    "sum total age sex mitoratio mito_ratio mtratio log10genesperumi log10_genes_per_umi num_genes num_umi num_umis "
    "num_genes_expressed num_reads n_genes_expressed genes_per_umi complexity "
    "fov x_centroid y_centroid z_centroid x_location y_location z_location center_x center_y center_z centroid_x "
    "centroid_y min_x max_x min_y max_y centerx_local_px centery_local_px centerx_global_px centery_global_px "
    "area volume perimeter solidity eccentricity aspectratio aspect_ratio cell_area nucleus_area nuclear_area "
    "cell_volume nucleus_count nucleus_volume cell_size transcript_counts control_probe_counts control_codeword_counts "
    "unassigned_codeword_counts deprecated_codeword_counts genomic_control_counts z_level entityid entity_id"
)
_PLACES = ("x", "y")
"""Coordinates, if both are there: y alone is a gene of the fly."""
_QUALITY_PATTERN = re.compile(
    r"(ncount|nfeature|nreads|numi)_\w+"
    r"|(percent|pct|perc|frac|fraction)_(counts_)?(mt|mito|mitochondrial|mitochondria|mt_rna|ribo|rb|ribosomal|rp|"
    r"rps|rpl|hb|hemo|ercc|spike|top_\d+|in_top_\w+)(_\w+)?|percent_?(mt|mito|ribo)|pct_counts_\w+"
    r"|(total_counts|log1p|log10)_(total_counts|n_genes_by_counts|n_counts|mt|mito|ribo|hb|ercc)(_\w+)?"
    r"|total_counts_\w+|(rna|sct|integrated|wsnn|adt)(_s?nn)?_res_[\d_]+|res_\d+(_\d+)?|(leiden|louvain)_\w+"
    r"|(umap|tsne|pca|pc|x_umap|x_tsne|x_pca|umap_harmony|harmony|lsi|ica|dc|diffmap|spatial|coord)_\d+"
    r"|(umap|tsne|pc)\d{1,2}|unnamed_\d+|(subsets|altexps)_\w+_(sum|detected|percent)|percent_top_\d+"
    r"|pann(_[\d_]+)?|df_classifications?(_[\d_]+)?|scdblfinder_\w+|(mean|max)_(panck|cd\d+|dapi|membrane|b2m)"
)
FEW, FEW_OF_ALL = 5, 0.02
"""Names of annotation among those of cells, at most: more of them are the names of the cells."""

_CHROMOSOME = re.compile(r"(chr)?(\d{1,2}|[IVX]+|[XYWZM]|MT|Un)([_:;]\S*)?|(GL|KI|JH)\d{6}(\.\d+)?", re.IGNORECASE)

_ANNOTATION = _words(
    "chr chrom chromosome chromosome_name chromosome_scaffold_name seqname seqnames seqid contig scaffold start end "
    "stop strand length width start_position end_position chromstart chromend txstart txend tx_start tx_end tss "
    "start_bp end_bp gene_start gene_end gene_start_bp gene_end_bp gene_strand gene_chr gene_chrom gene_chromosome "
    "position coordinates coverage reference locus cytoband band karyotype_band "
    "gene_length genelength transcript_length tx_length tx_len cds_length exon_length merged_length "
    "effectivelength effective_length eff_length efflength "
    "gene_biotype genebiotype biotype gene_type genetype transcript_biotype transcript_type class_code "
    "feature_type feature_types gene_source source gene_version description gene_description genome "
    "exon_count exoncount exon_number exons n_exons nexons num_exons gc_content gc_percent percentage_gc "
    "geneid gene_id gene_ids geneids gene_name gene_names genename gene_symbol gene_symbols genesymbol symbol symbols "
    "ensembl ensembl_id ensemblid ensembl_gene_id ensemblgene entrez entrez_id entrezid entrezgene entrez_gene_id "
    "hgnc hgnc_id hgnc_symbol mgi_symbol mgi_id external_gene_name gene_stable_id gene_stable_id_version ncbi_gene_id "
    "transcript_id transcript_ids transcript_name transcript_id_s "
    "accession refseq uniprot n_cells n_cells_by_counts mean_counts pct_dropout_by_counts "
    "highly_variable highly_variable_rank dispersions dispersions_norm means variances variances_norm "
    "vst_mean vst_variance vst_variance_expected vst_variance_standardized vst_variable"
)

_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|mrz|mai|okt|dez|mär"
_DATE = re.compile(rf"\d{{1,2}}[-. ]({_MONTH})([-. ]\d\d(\d\d)?)?|({_MONTH})[-. ]\d{{1,2}}", re.IGNORECASE)
_DATE_OF_NUMBERS = re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}( 00:00(:00)?)?|\d{1,2}/\d{1,2}/\d{2,4}")
_SERIAL = re.compile(r"[34]\d{4}|[34]\d{4}\.0")
"""Days since 1900: 40,000 to 49,999 are July 2009 to November 2036."""


def _plain(name: str) -> str:
    """Return a name in lower case, its blanks, dots, hyphens and brackets as single underscores.

    Examples
    --------
    >>> _plain("Chromosome/scaffold name"), _plain("percent.mt"), _plain("Gene start (bp)")
    ('chromosome_scaffold_name', 'percent_mt', 'gene_start_bp')
    """
    return re.sub(r"[\s.\-/()\[\]%:]+", "_", name.strip().lower()).rstrip("_")


def is_counter(names: Iterable[str]) -> np.ndarray:
    """Return which names count reads that belong to no gene.

    Returns
    -------
    numpy.ndarray
        Mask, as long as ``names``: rows that htseq-count, STAR, featureCounts and CITE-seq-Count add to a table of
        counts. Spike-ins (``ERCC-00002``) are measured as genes are, and are none of these.

    Examples
    --------
    >>> is_counter(["Gata1", "__no_feature", "N_unmapped", "too_low_aQual", "ERCC-00002"]).tolist()
    [False, True, True, True, False]
    """
    lower = [str(name).strip().lower() for name in names]
    return np.array([name in _COUNTERS or _COUNTER.fullmatch(name) is not None for name in lower], dtype=bool)


def is_quality_column(names: Iterable[str]) -> np.ndarray:
    """Return which names describe a cell (quality control, clusters, coordinates), not a gene.

    Returns
    -------
    numpy.ndarray
        Mask, as long as ``names``: the columns that Seurat, scanpy, scater and imaging platforms write, in any case,
        with dots or underscores. No known gene is among them.

    Examples
    --------
    >>> is_quality_column(["nCount_RNA", "percent.mt", "pct_counts_mt", "S.Score", "MT-ND1", "PCNA"]).tolist()
    [True, True, True, True, False, False]
    """
    given = [str(name) for name in names]
    plain = [_plain(name) for name in given]
    words = _QUALITY.union(_PLACES) if set(_PLACES) <= set(plain) else _QUALITY
    return _no_genes(given, [name in words or _QUALITY_PATTERN.fullmatch(name) is not None for name in plain])


def _no_genes(names: list[str], found: list[bool]) -> np.ndarray:
    """Return what was found without the names of genes."""
    mask = np.array(found, dtype=bool)
    at = np.flatnonzero(mask)
    mask[at] = ~is_known_gene([names[i].strip() for i in at])
    return mask


def is_chromosome(names: Iterable[str]) -> np.ndarray:
    """Return which names are those of a chromosome or of a place on one.

    Examples
    --------
    >>> is_chromosome(["chrX", "17", "MT", "chr1_KI270706v1_random", "chr2:1-500", "Gata1"]).tolist()
    [True, True, True, True, True, False]
    """
    return np.array([_CHROMOSOME.fullmatch(str(name).strip()) is not None for name in names], dtype=bool)


def is_annotation_column(names: Iterable[str]) -> np.ndarray:
    """Return which names describe a gene (place in the genome, length, biotype, other names), not a cell.

    Returns
    -------
    numpy.ndarray
        Mask, as long as ``names``: the columns that featureCounts, BioMart, scanpy and Seurat write beside genes.

    Examples
    --------
    >>> is_annotation_column(["Chr", "Start", "Gene stable ID", "gene_biotype", "P01_A01"]).tolist()
    [True, True, True, True, False]
    """
    given = [str(name) for name in names]
    return _no_genes(given, [_plain(name) in _ANNOTATION for name in given])


def rows_of_annotation(names: Iterable[str]) -> np.ndarray:
    """Return which names among those of cells describe genes: names of annotation, if they are a few.

    Examples
    --------
    >>> rows_of_annotation(["P01_A01", "P01_A02", "Length", "PC_1"]).tolist()
    [False, False, True, False]
    """
    found = is_annotation_column(names)
    return found if found.sum() <= max(FEW, FEW_OF_ALL * len(found)) else np.zeros_like(found)


def excel_dates(genes: Sequence[str]) -> list[str]:
    """Return names that are dates: a spreadsheet turns MARCH1 and SEPT2 into them.

    Examples
    --------
    >>> excel_dates(["Gata1", "1-Mar", "Sep-02", "2020-09-02", "44256", "Dec1"])
    ['1-Mar', 'Sep-02', '2020-09-02', '44256']
    """
    dates = [n for n in genes if _DATE.fullmatch(n) or _DATE_OF_NUMBERS.fullmatch(n)]
    serial = [n for n in genes if _SERIAL.fullmatch(n)]
    # where many names are numbers, they are identifiers of NCBI
    numbers = sum(n.isdecimal() for n in genes)
    keep = {*dates, *(serial if numbers <= max(40, 0.01 * len(genes)) and numbers < 0.5 * len(genes) else ())}
    return [n for n in genes if n in keep]
