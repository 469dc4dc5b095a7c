"""The tables and figures of the paper for one data set, beside the published ones."""
