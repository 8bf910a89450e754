"""The full configurations of published MACE models, as far as they are public.

None of their weights is here, so scales, shifts, numbers of neighbours and energies of isolated atoms are arbitrary.
`origin` says where the rest is from, `guessed` what follows from no source.
"""

from typing import Any, NamedTuple

from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.distance_transforms import Agnesi
from bayes_mlff.models.pair_repulsion import mace_zbl

CRYSTAL = (*range(1, 84), *range(89, 95))
ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)


class Published(NamedTuple):
    """A published model."""

    config: MACEConfig
    origin: str
    guessed: str
    heads: tuple[str, ...] = ("Default",)
    million_weights: float | None = None  # where it is known, to two decimal places


def _settings(elements: tuple[int, ...], hidden: str, **changes: Any) -> MACEConfig:
    common: dict[str, Any] = {
        "r_max": 6.0,
        "num_interactions": 2,
        "max_ell": 3,
        "correlation": 3,
        "average_neighbors": 40.0,
        "energy_scale": 0.8,
        "energy_shift": 0.16,
        "energy_shifts": tuple(-0.01 * z for z in elements),
    }
    return MACEConfig(elements=elements, hidden_irreps=hidden, **(common | changes))


def _density(hidden: str = "128x0e+128x1o", **changes: Any) -> MACEConfig:
    kinds = {"first_interaction": "density", "interaction": "density_residual"}
    return _settings(CRYSTAL, hidden, **kinds, distance_transform=Agnesi(), pair_repulsion=mace_zbl(5), **changes)


def _off(hidden: str, **changes: Any) -> MACEConfig:
    return _settings(ORGANIC, hidden, first_interaction="plain", **({"r_max": 5.0} | changes))


MH_1 = _settings(
    CRYSTAL,
    "512x0e+512x1o",
    first_interaction="nonlinear",
    interaction="nonlinear",
    edge_irreps="128x0e+128x1o",
    edge_irreps_first=True,
    apply_cutoff=False,
    agnostic_product=True,
    num_bessels=10,
    distance_transform=Agnesi(),
    pair_repulsion=mace_zbl(5),
    head="omat_pbe",
)

PUBLISHED = {
    "mp-0b3-medium": Published(
        _density(num_bessels=10),
        "the training script mace_mp_0b3/mace-mp0-b3.sh of ACEsuit/mace-mp, and the defaults of mace-torch",
        "nothing",
    ),
    "mpa-0-medium": Published(
        _density(num_bessels=10),
        "kinds of interactions, transform and repulsion from apax pull request 558, number of weights from a user's "
        "notes",
        "that everything else is as in MP-0b3",
        million_weights=9.06,
    ),
    "omat-0-medium": Published(
        _density(),
        "the training script mace_omat/mace-omat-medium.sh of ACEsuit/mace-foundations, and the defaults of mace-torch",
        "that config-omat.yaml, which is not public, changes nothing of the network",
    ),
    "omat-0-small": Published(_density("128x0e"), "its name", "that it differs from the medium size as in MP-0"),
    "matpes": Published(
        _density(),
        "apax pull request 558: the interactions, transform and repulsion of MPA-0; for PBE and r2SCAN",
        "that it has the sizes of OMAT-0, from which it was fine-tuned, and one head",
    ),
    "off23-small": Published(
        _off("96x0e", r_max=4.5, energy_scale=1.0, energy_shift=0.0),
        "Kovács et al. 2025, JACS 147, 17598, and mace_off23/medium/train.sh of ACEsuit/mace-off",
        "that the class is MACE here and ScaleShiftMACE for the other sizes: the script's --model=MACE has meant both",
    ),
    "off23-medium": Published(_off("128x0e+128x1o", energy_shift=0.0), "as for the small size", "the class"),
    "off23-large": Published(_off("192x0e+192x1o+192x2e", energy_shift=0.0), "as for the small size", "the class"),
    "mh-1": Published(
        MH_1,
        "issues 1298 and 1495 of ACEsuit/mace (edge irreps, shapes of the weights), a user's notes (features, Bessel "
        "functions, heads, number of weights), Batatia et al. 2025, arXiv:2510.25380 (cutoff outside the radial "
        "network)",
        "that products are the same for all elements, and the readouts; the number of weights agrees with both",
        ("matpes_r2scan", "mp_pbe_refit_add", "spice_wB97M", "oc20_usemppbe", "omol", "omat_pbe"),
        million_weights=6.44,
    ),
}
