"""Reading and writing: expression files, matrices in blocks, results as folders."""
