"""Pure-function interatomic potentials and their observables."""
