"""`python -m bayes_mlff.cli` is the program `bayes-mlff`."""

from bayes_mlff.cli.app import main

if __name__ == "__main__":
    main()
