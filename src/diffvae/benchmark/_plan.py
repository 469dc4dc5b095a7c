"""Names under which other modules import the keys and checks of a comparison."""

from diffvae.benchmark._jobs import digest as digest
from diffvae.benchmark._jobs import slug as slug
from diffvae.benchmark._jobs import version as version
from diffvae.benchmark._run import require_positive as require_positive
