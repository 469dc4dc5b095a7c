"""Which dimensions, genes and clusters recur when a model is trained again."""
