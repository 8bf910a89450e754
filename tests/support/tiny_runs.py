"""Settings of runs that cost seconds, a tiny untrained network, and an observer."""

from bayes_mlff.testing.tiny import tiny_nequip

TINY = tiny_nequip((1, 6, 8), hidden_irreps="4x0e+4x1o", num_layers=2, energy_shifts=(-1.0, -2.0, -3.0))


class Silent:
    """An observer that remembers the calls."""

    def __init__(self):
        self.labels, self.chunks, self.notices = [], [], []

    def working(self, what):
        pass

    def chunk(self, **what):
        self.chunks.append(what)

    def label(self, **what):
        self.labels.append(what)

    def notice(self, **what):
        self.notices.append(what)

    def update(self, **what):
        pass


WITH_STRESS = {"name": "ase", "calculator": "ase.calculators.emt:EMT", "stress": True}
NPT = {
    "structure": "alloy.extxyz",
    "threshold": "0.004 eV",
    "guards": {"label_thresholds": 1000.0, "sigma_ratio": 1e4},  # of a network that knows nothing
    "max_labels": 40,
    "prior": {"scale": 0.5},
    "sampler": {
        "chains": 2,
        "steps": 40,
        "cold_steps": 5,
        "ramp_steps": 5,
        "batch_size": 2,
        "initial_spread": 1.0,
    },
    "dynamics": {
        "ensemble": "npt",
        "thermostat": "bussi",
        "timestep_fs": 1.0,
        "duration_ps": 0.03,
        "chunk_steps": 8,
        "trajectory_every": 5,
        "schedule": [
            {"until_ps": 0.02, "temperature_k": 500.0, "end_temperature_k": 700.0, "pressure_gpa": -2.0},
            {"duration_ps": 0.01, "temperature_k": 700.0},
        ],
        "barostat": {"time_fs": 50.0},
    },
    "engine": WITH_STRESS,
}
