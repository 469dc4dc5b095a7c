"""The tables and figures of the paper for one data set, compared with the published ones."""
