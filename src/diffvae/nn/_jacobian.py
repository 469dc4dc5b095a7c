"""Effect of each latent dimension on the output of a decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffvae.nn._mlp import Decoder

BLOCK_BYTES = 128 * 2**20


def weight_product(decoder: Decoder) -> Tensor:
    r"""Return :math:`\omega = W_0 W_1 W_2`, the paper's high-weight connections.

    Parameters
    ----------
    decoder
        The decoder.

    Returns
    -------
    Latent dimensions x genes. Biases, ReLU gates and the logistic function are ignored: see :func:`mean_jacobian`. The
    weights of a decoder's linear skip are added.

    Examples
    --------
    >>> import diffvae as dv
    >>> dv.nn.weight_product(dv.nn.Decoder(2, (4, 8), 20)).shape
    torch.Size([2, 20])
    """
    product, *rest = (layer.weight.T for layer in decoder.linears)
    for weight in rest:
        product = product @ weight
    return product if decoder.skip is None else product + decoder.skip.weight.T


def logistic_slope(logits: Tensor) -> Tensor:
    """Return the derivative of the logistic function."""
    p = torch.sigmoid(logits)
    return p * (1 - p)


@torch.no_grad()
def mean_jacobian(
    decoder: Decoder,
    z: Tensor,
    *,
    slope: Callable[[Tensor], Tensor] | None = None,
    logistic: bool = False,
    covariates: Tensor | None = None,
) -> Tensor:
    r"""Return the Jacobian of the decoder, averaged over points of the latent space.

    .. math:: J = \frac{1}{N} \sum_i W_0 G_1^{(i)} W_1 G_2^{(i)} W_2 S^{(i)}

    with G the 0/1 gates of the ReLUs at point i and S the slope of the function that maps the output to the expected
    expression (1 without one); the weights of a linear skip are added before S. Where :math:`\omega` sums over all
    paths through the network, J sums over those that are open for real cells.

    Parameters
    ----------
    decoder
        The decoder.
    z
        Points x latent dimensions.
    slope
        Derivative, as a function of the output, of the function that maps the output to the expected expression; None
        where the output is the expected expression.
    logistic
        Short for the slope of the logistic function.
    covariates
        Covariates of the points, if the decoder has any.

    Returns
    -------
    Latent dimensions x genes. It is exact, from one forward pass of all D directions per block of points; the
    derivatives of a block take at most 128 MiB.

    Examples
    --------
    >>> import diffvae as dv
    >>> dv.nn.mean_jacobian(dv.nn.Decoder(2, (4, 8), 20), torch.zeros(3, 2), logistic=True).shape
    torch.Size([2, 20])
    """
    slope = logistic_slope if logistic else slope
    *hidden, last = decoder.linears
    n_latent, n_genes = z.shape[1], last.out_features
    block = max(1, BLOCK_BYTES // (4 * n_latent * n_genes))
    total = torch.zeros(n_genes, n_latent, device=z.device, dtype=torch.float64)
    for start in range(0, len(z), block):
        points = z[start : start + block]
        seen = None if covariates is None else covariates[start : start + block]
        activation = points
        slopes = torch.eye(n_latent, device=z.device).expand(len(points), -1, -1)  # points x units x dimensions
        for layer in hidden:
            activation = decoder.first(points, seen) if layer is hidden[0] else layer(activation)
            gate = activation > 0
            slopes = (layer.weight @ slopes) * gate[:, :, None]
            activation = activation * gate
        linear = 0 if decoder.skip is None else decoder.skip.weight
        if slope is not None:
            total += ((last.weight @ slopes + linear) * slope(decoder(points, seen))[:, :, None]).sum(0)
        else:  # the last layer is linear, so it can wait for the sum
            total += last.weight @ slopes.sum(0) + len(points) * linear
    return (total / len(z)).T.float()
