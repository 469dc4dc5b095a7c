"""What every part of the package may import: data access, graphs, neighbours, the machine; no biology and no model."""
