"""Search of hyper-parameters, and whether the result beats the defaults."""
