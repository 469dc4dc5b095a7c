"""Code that every other room may import: data access, graphs, neighbours, threads; no biology and no model."""
