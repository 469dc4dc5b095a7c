"""Names under which other modules import the store."""

from diffvae.benchmark._jobs import ROWS as ROWS
from diffvae.benchmark._jobs import Store as Store
from diffvae.benchmark._jobs import claim as claim
from diffvae.benchmark._jobs import refuse_foreign as refuse_foreign
