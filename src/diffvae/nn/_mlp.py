"""Encoder and decoder of eqs 4-11, the autoencoder, and weights as arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffvae.nn._shared_batch import Noise, kept

M = TypeVar("M", bound=nn.Module)
LOGVAR_RANGE = (-12.0, 4.0)
"""Limits sigma to 0.0025 to 7.4 (the prior's is 1); a held-out cell beyond them would cost thousands of nats."""

HEADS = ("linear", "relu", "relu_bn")


class Encoder(nn.Module):
    r"""Dense layers to the mean and log variance of q(z|x) (eqs 4-7).

    .. math:: h_1 = BN(ReLU(W_1 x + b_1)), \quad h_2 = BN(ReLU(W_2 h_1 + b_2)), \quad
              \mu = W_\mu h_2 + b_\mu, \quad \log\sigma^2 = W_\sigma h_2 + b_\sigma

    Parameters
    ----------
    n_input
        Number of genes.
    hidden
        Widths of the hidden layers, from the input on.
    n_latent
        Latent dimensions.
    head
        Activation of the two heads: ``"linear"``; ``"relu"`` as printed in eqs 6 and 7, with which no sigma is below 1;
        ``"relu_bn"`` (ReLU, then batch norm) as in the released code.
    batch_norm
        Normalise after each ReLU.
    dropout
        Share of the inputs of each hidden layer after the first that are set to zero in training.
    input_dropout
        Share of the genes of each cell that are set to zero in training (the others are scaled up), so that the encoder
        learns to cope with genes that were not captured.
    linear_skip
        Add a linear map of the input, W_s x, to mu. The input is then centred and rescaled first,
        :math:`x \leftarrow r \odot (x - m)`, with the buffers ``center`` (m) and ``scale`` (r).
    n_covariates
        Covariates of a cell, such as one per batch: the first step is :math:`x \leftarrow x - C a` with their values a
        and weights C, which start at zero.

    Examples
    --------
    >>> mu, logvar = Encoder(20, (8, 4), 2).eval()(torch.rand(3, 20))
    >>> mu.shape, logvar.shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        n_input: int,
        hidden: Sequence[int],
        n_latent: int,
        *,
        head: str = "linear",
        batch_norm: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        linear_skip: bool = False,
        n_covariates: int = 0,
    ) -> None:
        super().__init__()
        widths = [n_input, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) if batch_norm else nn.Identity() for b in hidden)
        self.dropout = (input_dropout, *(dropout for _ in hidden[1:]))
        self.head = head
        self.mu = nn.Linear(widths[-1], n_latent)
        self.logvar = nn.Linear(widths[-1], n_latent)
        self.mu_norm = nn.BatchNorm1d(n_latent) if head == "relu_bn" else nn.Identity()
        self.logvar_norm = nn.BatchNorm1d(n_latent) if head == "relu_bn" else nn.Identity()
        self.skip = nn.Linear(n_input, n_latent, bias=False) if linear_skip else None
        if linear_skip:
            self.register_buffer("center", torch.zeros(n_input))
            self.register_buffer("scale", torch.ones(n_input))
        self.covariates = _zeros(n_covariates, n_input)

    def forward(self, x: Tensor, noise: Noise = None, covariates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar, cells x latent dimensions; ``noise`` draws the dropout."""
        linear: Tensor | float = 0.0
        if self.covariates is not None:
            x = x - self.covariates(covariates)
        if self.skip is not None:
            x = torch.addcmul(-self.center * self.scale, x, self.scale)
        for i, (layer, norm, dropout) in enumerate(zip(self.layers, self.norms, self.dropout, strict=True)):
            if dropout and self.training:
                x = (x * kept(x.shape, dropout, noise, x.device)).div_(1 - dropout)
            if i == 0 and self.skip is not None:
                linear = self.skip(x)
            x = norm(F.relu(layer(x)))
        mu, logvar = self.mu(x), self.logvar(x)
        if self.head != "linear":
            mu, logvar = F.relu(mu), F.relu(logvar)
        return self.mu_norm(mu) + linear, self.logvar_norm(logvar).clamp(*LOGVAR_RANGE)


class MLP(nn.Module):
    r"""Dense layers with ReLU between them.

    .. math:: h_1 = ReLU(W_0 x + b_0), \quad h_2 = ReLU(W_1 h_1 + b_1), \quad l = W_2 h_2 + b_2

    Parameters
    ----------
    n_input, hidden, n_output
        Widths of the layers.

    Examples
    --------
    >>> MLP(4, (8, 6), 2)(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, n_input: int, hidden: Sequence[int], n_output: int) -> None:
        super().__init__()
        widths = [n_input, *hidden, n_output]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's linear output."""
        return self.after_first(self.linears[0](x))

    def after_first(self, x: Tensor) -> Tensor:
        """Return the output for a given linear output of the first layer."""
        for i, layer in enumerate(self.linears[1:]):
            x = layer(F.relu(x, inplace=i > 0))  # the output of a layer in between is needed nowhere else
        return x

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers in their order."""
        return [cast(nn.Linear, layer) for layer in self.layers]


class Decoder(MLP):
    """From z to one number per gene (eqs 9-11, before the logistic function): logits, or means of a Gaussian.

    Parameters
    ----------
    n_input, hidden, n_output
        Latent dimensions, widths in decoder order, genes.
    linear_skip
        Add a linear map of z, W_s z, to the output.
    n_covariates
        Covariates of a cell, such as one per batch: linear maps of their values are added to the input of the first
        ReLU and to the output. Their weights start at zero.

    Examples
    --------
    >>> Decoder(2, (4, 8), 20)(torch.zeros(3, 2)).shape
    torch.Size([3, 20])
    """

    def __init__(
        self,
        n_input: int,
        hidden: Sequence[int],
        n_output: int,
        *,
        linear_skip: bool = False,
        n_covariates: int = 0,
    ) -> None:
        super().__init__(n_input, hidden, n_output)
        self.skip = nn.Linear(n_input, n_output, bias=False) if linear_skip else None
        self.covariates = _zeros(n_covariates, n_output)
        self.hidden_covariates = _zeros(n_covariates, hidden[0])

    def first(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Return the linear output of the first layer."""
        output = self.linears[0](x)
        return output if self.hidden_covariates is None else output + self.hidden_covariates(covariates)

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Return the output for points of the latent space."""
        output = self.after_first(self.first(x, covariates))
        if self.skip is not None:
            output += self.skip(x)
        if self.covariates is not None:
            output += self.covariates(covariates)
        return output


def _zeros(n_input: int, n_output: int) -> nn.Linear | None:
    """Return a linear map that starts at zero; None without inputs."""
    if not n_input:
        return None
    layer = nn.Linear(n_input, n_output, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class Autoencoder(nn.Module):
    """Encoder and mirrored decoder.

    Parameters
    ----------
    n_input, hidden, n_latent, head, batch_norm, dropout, input_dropout
        As in :class:`Encoder`. The decoder has the widths in reverse; the other options apply to the encoder only.
    linear_skip
        Add linear maps to encoder and decoder, as in :class:`Encoder` and :class:`Decoder`.
    n_covariates, encode_covariates
        Number of covariates that the decoder sees, and whether the encoder sees them as well.
    gene_variance
        Add the parameter ``logvar_x``: the log sigma^2 of each gene under the Gaussian likelihood, or its log
        dispersion under the negative binomial. None without.

    Examples
    --------
    >>> network = Autoencoder(20, (8, 4), 2).eval()
    >>> mu, logvar = network.encoder(torch.rand(3, 20))
    >>> network.decoder(mu).shape
    torch.Size([3, 20])
    """

    def __init__(
        self,
        n_input: int,
        hidden: Sequence[int],
        n_latent: int,
        *,
        head: str = "linear",
        batch_norm: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        linear_skip: bool = False,
        n_covariates: int = 0,
        encode_covariates: bool = True,
        gene_variance: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            n_input, hidden, n_latent, head=head, batch_norm=batch_norm, dropout=dropout, input_dropout=input_dropout,
            linear_skip=linear_skip, n_covariates=n_covariates if encode_covariates else 0,
        )  # fmt: skip
        self.decoder = Decoder(n_latent, hidden[::-1], n_input, linear_skip=linear_skip, n_covariates=n_covariates)
        self.logvar_x = nn.Parameter(torch.zeros(n_input)) if gene_variance else None


def arrays_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Return the weights of a module, by name."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def with_arrays(build: Callable[[], M], arrays: Mapping[str, np.ndarray]) -> M:
    """Build a module with the given weights, in evaluation mode.

    The module is built on the meta device first, so that weights of another shape are refused before memory is
    allocated.
    """
    with torch.device("meta"):
        module = build()
    dtypes = {name: value.dtype for name, value in module.state_dict().items()}
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    module.load_state_dict({name: x.to(dtypes.get(name, x.dtype)) for name, x in state.items()}, assign=True)
    return module.eval()
