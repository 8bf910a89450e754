"""Which foundation model to start from: labels of LaMnO3 learnt from several of them."""
