"""Which dimensions, genes and clusters return when a model is trained again."""
