"""Search of hyper-parameters, and its gain over the default."""
