import os

# Threads that wait by spinning take the cores from those that work where several test runs share a machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
