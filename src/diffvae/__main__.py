"""``python -m diffvae``, and so ``torchrun -m diffvae``: the program under its other name."""

from diffvae.cli import main

if __name__ == "__main__":
    main()
